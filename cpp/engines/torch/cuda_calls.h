#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engines/torch/cuda_device.h"
#include "engines/torch/cuda_options.h"
#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/options.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Runs the calls of one artifact on its device: chooses the stream, and replays a recorded CUDA
/// graph where there is one. On the CPU, and without the options `cuda_graphs` and `streams`, it
/// only calls `run_uncaptured`.
class CudaCalls {
 public:
  /// @throws InvalidInput for bad options, and for cuda_graphs=on where there can be no graphs;
  /// EngineUnavailable when this build lacks what the options require.
  CudaCalls(const Manifest& manifest, const LoadOptions& options, Device device);

  /// Returns true when `run` only calls `run_uncaptured`.
  [[nodiscard]] bool idle() const noexcept { return cuda_ == nullptr; }

  /// Runs one call.
  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs,
                          const RunCall& run_uncaptured);

  /// Records a call with inputs of these shapes when the options ask for it. Returns true when such
  /// calls are replayed from now on. Other threads may call at the same time.
  /// @throws ExecutionError when that fails and cuda_graphs=on requires it.
  bool prepare(std::size_t method, const Signature& signature, std::span<const Tensor> inputs,
               const RunCall& run_uncaptured);

  /// Returns true when calls may be recorded; nothing in them may then wait for the device.
  [[nodiscard]] bool records() const noexcept { return records_; }

  /// Tells what was recorded, what was not, and why.
  [[nodiscard]] std::vector<std::string> notes() const;

 private:
  CudaOptions options_;
  bool records_ = false;
  std::unique_ptr<CudaDevice> cuda_;  ///< null: every call runs uncaptured
  mutable std::mutex mutex_;          ///< guards the notes
  std::vector<std::string> notes_;
};

}  // namespace isthmus::torch_engine
