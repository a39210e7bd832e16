#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engines/torch/cuda_calls.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// The code and weights of one artifact as LibTorch loaded them: the part of an executable that
/// differs between the formats.
class LibtorchProgram {
 public:
  virtual ~LibtorchProgram() = default;

  /// Runs one method without a recorded graph, on the thread's current stream. Returns what
  /// `Executable::run` returns; outputs may be views of the inputs, and of nothing else. Exceptions
  /// of LibTorch pass through.
  /// @throws ExecutionError.
  [[nodiscard]] virtual std::vector<Tensor> launch(std::size_t method, const Signature& signature,
                                                   std::span<const Tensor> inputs) const = 0;

  /// Returns a program with the state of a fresh load that shares the weights with this one.
  [[nodiscard]] virtual std::unique_ptr<LibtorchProgram> fork() const = 0;
};

/// What all forks of an executable share beside the program.
struct LibtorchSetup {
  std::vector<Signature> signatures;
  std::vector<std::string> notes;
  Device device;
  int concurrency = 0;              ///< calls that may run at once; 0: no bound
  std::unique_ptr<CudaCalls> cuda;  ///< never null
};

/// Returns an executable of either LibTorch format.
std::unique_ptr<Executable> make_executable(std::unique_ptr<LibtorchProgram> program,
                                            LibtorchSetup setup);

}  // namespace isthmus::torch_engine
