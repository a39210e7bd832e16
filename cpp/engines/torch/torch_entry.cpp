// The entry of an engine library. It does not link LibTorch: it finds LibTorch, checks its version,
// opens it, and only then opens the runtime library that links it.
#include <dlfcn.h>

#include <mutex>

#include "engines/dl_error.h"
#include "engines/torch/fit.h"
#include "engines/torch/libtorch_loader.h"
#include "engines/torch/python_environment.h"
#include "engines/torch/runtime.h"
#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"

namespace isthmus::torch_engine {
namespace {

/// Returns how to build isthmus again, to end a message with.
std::string rebuild_advice() {
  const auto environment = python_environment(engine_folder());
  const std::string command = environment ? rebuild_command(*environment) : std::string();
  return command.empty() ? "; build isthmus again for this torch"
                         : "; build it again: `" + command + "`";
}

const Runtime& open_runtime_now() {
  const Libtorch& libtorch = open_libtorch();
  const std::string path = libtorch.runtime.string();
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw EngineUnavailable(path + " does not fit torch " + libtorch.location.version + " in " +
                            libtorch.location.libraries.string() + ": " + dl_error() +
                            rebuild_advice());
  }
  const auto release = reinterpret_cast<const char* (*)()>(dlsym(handle, "isthmus_release"));
  using Make = const Runtime* (*)(const RuntimeContext*);
  const auto make = reinterpret_cast<Make>(dlsym(handle, "isthmus_libtorch_runtime"));
  if (make == nullptr || release == nullptr || release() != isthmus::version())
    throw EngineUnavailable(path + " is of isthmus " + (release ? release() : "0.2 or older") +
                            ", and this is isthmus " + isthmus::version() + rebuild_advice());
  const RuntimeContext context{libtorch.cpu_handle, libtorch.cuda_error,
                               libtorch.has_cuda_libraries};
  return *make(&context);
}

/// Opens the runtime once. A failure is remembered and thrown at every call.
const Runtime& runtime() {
  static std::once_flag once;
  static const Runtime* opened = nullptr;
  static std::string& failure = *new std::string;  // NOLINT(cppcoreguidelines-owning-memory)
  std::call_once(once, [] {
    try {
      opened = &open_runtime_now();
    } catch (const EngineUnavailable& error) {
      failure = error.what();
    }
  });
  if (opened == nullptr) throw EngineUnavailable(failure);
  return *opened;
}

/// Runs one of the LibTorch formats; the build defines which one.
class TorchEngine final : public Engine {
 public:
  [[nodiscard]] std::vector<std::string> formats() const override { return {ISTHMUS_TORCH_FORMAT}; }

  EngineInfo info() override {
    EngineInfo info;
    info.name = ISTHMUS_TORCH_FORMAT;
    try {
      const Runtime& opened = runtime();
      const Libtorch& libtorch = open_libtorch();
      info.runtime = "LibTorch " + opened.version();
      info.runtime_path = libtorch.location.libraries.string();
      info.runtime_files = deployed_files(libtorch.location);
      info.devices = opened.devices();
      info.details = opened.details();
      info.details.push_back("built for torch " +
                             torch_versions(runtime_libraries(engine_folder())) +
                             ", LibTorch found: " + libtorch.location.origin);
      if (libtorch.location.version.empty())
        info.details.emplace_back("this LibTorch does not tell its version");
      if (!libtorch.cuda_error.empty())
        info.details.push_back("CUDA libraries cannot be opened: " + libtorch.cuda_error);
    } catch (const EngineUnavailable& error) {
      info.unavailable = error.what();
    }
    return info;
  }

  std::optional<std::string> can_run(const Artifact& artifact, const LoadOptions&) override {
    if (artifact.format != ISTHMUS_TORCH_FORMAT) return "the format is " + artifact.format;
    return machine_refusal(artifact);
  }

  bool changes_answers(std::string_view option) const override {
    return option != "max_concurrency" && option != "num_runners";
  }

  std::unique_ptr<Executable> load(const ArtifactSource& source,
                                   const LoadOptions& options) override {
    return runtime().load(source, options);
  }
};

TorchEngine& engine() {
  static TorchEngine instance;
  return instance;
}

}  // namespace
}  // namespace isthmus::torch_engine

ISTHMUS_EXPORT_ENGINE(&isthmus::torch_engine::engine())
