#include "engines/onnxruntime/api_loader.h"

#include <dlfcn.h>

#include <mutex>
#include <optional>

#include "engines/dl_error.h"
#include "engines/library_search.h"
#include "isthmus/error.h"

namespace isthmus::onnxruntime_engine {
namespace {

std::string remedy() {
  return "install it with `pip install \"onnxruntime>=" + oldest_version() +
         "\"`, or name its shared library in ISTHMUS_ONNXRUNTIME";
}

Library open_now(const LibraryCandidate& candidate) {
  void* handle = dlopen(candidate.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw EngineUnavailable("ONNX Runtime was not found (" + candidate.origin + ": " + dl_error() +
                            "); " + remedy());
  }
  using Base = const OrtApiBase* (*)();
  const auto base = reinterpret_cast<Base>(dlsym(handle, "OrtGetApiBase"));
  const std::string label = candidate.path.string() + " (" + candidate.origin + ")";
  if (base == nullptr)
    throw EngineUnavailable(label + " is not ONNX Runtime: it has no OrtGetApiBase; " + remedy());
  const std::string version = base()->GetVersionString();
  // The library writes to the console when it is asked for an API that it does not have.
  const OrtApi* api = older(version, oldest_version()) ? nullptr : base()->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    throw EngineUnavailable("isthmus needs ONNX Runtime " + oldest_version() + " or newer, found " +
                            version + " in " + label + "; " + remedy());
  Ort::InitApi(api);
  return {library_file(reinterpret_cast<const void*>(base)), version, candidate.origin};
}

}  // namespace

const Library& open_library(const LoadOptions& options) {
  static std::mutex mutex;
  static std::optional<Library>& opened = *new std::optional<Library>;  // NOLINT: never torn down
  const LibrarySearch search{.name = "libonnxruntime.so",
                             .variable = "ISTHMUS_ONNXRUNTIME",
                             .package = "onnxruntime/capi",
                             .built_with = ISTHMUS_ONNXRUNTIME_PACKAGE};
  const std::lock_guard lock(mutex);
  if (!opened) opened = open_now(find_library(search, options));
  require_same_library(search, options, opened->path, opened->origin);
  return *opened;
}

std::string oldest_version() {
  return "1." + std::to_string(ORT_API_VERSION);
}

Ort::Env& environment() {
  // Leaked on purpose: ONNX Runtime's static objects may be destroyed first.
  static Ort::Env& instance =
      *new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "isthmus");  // NOLINT(cppcoreguidelines-owning-memory)
  return instance;
}

}  // namespace isthmus::onnxruntime_engine
