#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "isthmus/engine.h"

namespace isthmus::torch_engine {

/// What libisthmus_libtorch.so gives to the engine library: everything that needs LibTorch.
class Runtime {
 public:
  virtual ~Runtime() = default;
  [[nodiscard]] virtual std::string version() const = 0;
  [[nodiscard]] virtual std::vector<std::string> devices() const = 0;
  [[nodiscard]] virtual std::vector<std::string> details() const = 0;
  [[nodiscard]] virtual std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                         const LoadOptions& options) const = 0;
};

/// What the engine library knows of LibTorch and the runtime library cannot find out.
struct RuntimeContext {
  void* libtorch_cpu = nullptr;  ///< handle for dlsym
  std::string cuda_error;        ///< why CUDA libraries could not be opened
  bool has_cuda_libraries = false;
};

}  // namespace isthmus::torch_engine
