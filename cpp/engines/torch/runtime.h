#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "isthmus/engine.h"

namespace isthmus::torch_engine {

/// The interface of libisthmus_libtorch.so to the engine libraries: everything that needs LibTorch.
class Runtime {
 public:
  virtual ~Runtime() = default;
  [[nodiscard]] virtual std::string version() const = 0;
  [[nodiscard]] virtual std::vector<std::string> devices() const = 0;
  [[nodiscard]] virtual std::vector<std::string> details() const = 0;
  [[nodiscard]] virtual std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                         const LoadOptions& options) const = 0;
};

/// Facts about LibTorch that only the engine library knows.
struct RuntimeContext {
  void* libtorch_cpu = nullptr;  ///< handle for dlsym
  std::string cuda_error;  ///< the reason why CUDA libraries cannot be opened; empty without one
  bool has_cuda_libraries = false;
};

}  // namespace isthmus::torch_engine
