#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engines/torch/cuda_options.h"
#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Runs a call of a model without a recorded graph.
using RunCall = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

/// The graphs and streams of one model on one CUDA device: the part that needs the headers of the
/// CUDA runtime. cuda_device.cpp implements it, cuda_absent.cpp replaces it in builds without them.
class CudaDevice {
 public:
  virtual ~CudaDevice() = default;

  /// Runs one call on the stream that the options choose; replays it when its shapes are recorded.
  virtual std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs,
                                  const RunCall& run_uncaptured) = 0;

  /// See CudaGraphs::record.
  [[nodiscard]] virtual std::string record(std::size_t method, std::span<const Tensor> inputs,
                                           const RunCall& run_uncaptured) = 0;

  /// Returns the number of graphs.
  [[nodiscard]] virtual std::size_t recorded() const = 0;
};

/// Returns why this build has no CudaDevice; empty when it has one.
[[nodiscard]] std::string no_cuda_device();

/// @throws EngineUnavailable when this build has none.
[[nodiscard]] std::unique_ptr<CudaDevice> make_cuda_device(Device device,
                                                           const CudaOptions& options);

/// Waits until the recordings in progress have ended, then until all work on the device is done.
void wait_for_device(Device device);

}  // namespace isthmus::torch_engine
