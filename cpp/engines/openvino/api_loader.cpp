#include "engines/openvino/api_loader.h"

#include <dlfcn.h>

#include <mutex>
#include <optional>

#include "engines/dl_error.h"
#include "engines/library_search.h"
#include "isthmus/error.h"

namespace isthmus::openvino_engine {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLibrary = "libopenvino_c.so";

std::string remedy() {
  return "install it with `pip install \"openvino>=" ISTHMUS_OPENVINO_VERSION
         "\"`, or name the folder of libopenvino_c in ISTHMUS_OPENVINO";
}

Library open_now(const LibraryCandidate& candidate) {
  void* handle = dlopen(candidate.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw EngineUnavailable("OpenVINO was not found (" + candidate.origin + ": " + dl_error() +
                            "); " + remedy());
  }
  Library library;
  library.origin = candidate.origin;
#define ISTHMUS_OPENVINO_LOOK_UP(name)                                                     \
  library.api.name = reinterpret_cast<decltype(library.api.name)>(dlsym(handle, #name));   \
  if (library.api.name == nullptr)                                                         \
  throw EngineUnavailable(candidate.path.string() + " (" + candidate.origin +              \
                          ") has no " #name ": it is no OpenVINO that isthmus can use; " + \
                          remedy())
  ISTHMUS_OPENVINO_FUNCTIONS(ISTHMUS_OPENVINO_LOOK_UP);
#undef ISTHMUS_OPENVINO_LOOK_UP
  ov_version_t version{};
  require(library.api, library.api.ov_get_openvino_version(&version), "asking for the version");
  library.version = version.buildNumber;
  library.api.ov_version_free(&version);
  library.version = library.version.substr(0, library.version.find('-'));
  library.path = library_file(reinterpret_cast<const void*>(library.api.ov_core_create));
  // The numbers of the element types have changed between major versions.
  const std::string built = ISTHMUS_OPENVINO_VERSION;
  if (major_of(library.version) != major_of(built) || older(library.version, built))
    throw EngineUnavailable("isthmus was built for OpenVINO " + built + " and later ones of " +
                            major_of(built) + ", found " + library.version + " in " +
                            library.path.string() + " (" + candidate.origin + "); " + remedy() +
                            ", or build isthmus for the one that is here");
  return library;
}

}  // namespace

const Library& open_library(const LoadOptions& options) {
  static std::mutex mutex;
  static std::optional<Library>& opened = *new std::optional<Library>;  // NOLINT: never torn down
  const LibrarySearch search{.name = kLibrary,
                             .variable = "ISTHMUS_OPENVINO",
                             .package = "openvino/libs",
                             .built_with = ISTHMUS_OPENVINO_PACKAGE};
  const std::lock_guard lock(mutex);
  if (!opened) opened = open_now(find_library(search, options));
  require_same_library(search, options, opened->path, opened->origin);
  return *opened;
}

void require(const Api& api, ov_status_e status, const char* what) {
  if (status == OK) return;
  const char* text = api.ov_get_last_err_msg();
  const std::string message = text != nullptr ? text : "";
  api.ov_free(text);
  throw std::runtime_error(std::string(what) + " failed with status " + std::to_string(status) +
                           (message.empty() ? "" : ": " + message));
}

}  // namespace isthmus::openvino_engine
