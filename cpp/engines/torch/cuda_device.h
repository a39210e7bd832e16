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

/// A call of a model, launched operator by operator.
using RunCall = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

/// Graphs and streams of one model on one CUDA device: all that needs the headers of CUDA's runtime
/// to be built. cuda_device.cpp has it; cuda_absent.cpp stands in where the build had no headers.
class CudaDevice {
 public:
  virtual ~CudaDevice() = default;

  /// One call, on the stream that the options say; a replay when its shapes are recorded.
  virtual std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs,
                                  const RunCall& run_uncaptured) = 0;

  /// See CudaGraphs::record.
  [[nodiscard]] virtual std::string record(std::size_t method, std::span<const Tensor> inputs,
                                           const RunCall& run_uncaptured) = 0;

  /// Graphs that there are.
  [[nodiscard]] virtual std::size_t recorded() const = 0;
};

/// Why this build has no CudaDevice; empty when it has.
[[nodiscard]] std::string no_cuda_device();

/// @throws EngineUnavailable when this build has none.
[[nodiscard]] std::unique_ptr<CudaDevice> make_cuda_device(Device device,
                                                           const CudaOptions& options);

/// Waits until all work on the device is done, and for recordings to end before that.
void wait_for_device(Device device);

}  // namespace isthmus::torch_engine
