#include "engines/torch/cuda_device.h"

#include <torch/cuda.h>

#include <optional>
#include <shared_mutex>
#include <utility>

#include "engines/torch/caller_stream.h"
#include "engines/torch/cuda_graphs.h"
#include "engines/torch/cuda_recording.h"

namespace isthmus::torch_engine {
namespace {

class RealCudaDevice final : public CudaDevice {
 public:
  RealCudaDevice(Device device, const CudaOptions& options)
      : device_(device),
        streams_per_caller_(options.streams_per_caller),
        graphs_(device, options.graph_limit) {}

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs,
                          const RunCall& run_uncaptured) override {
    if (!streams_per_caller_) return call(method, inputs, run_uncaptured);
    CallerStream stream(device_);
    std::vector<Tensor> outputs = call(method, inputs, run_uncaptured);
    stream.hand_over(outputs);
    return outputs;
  }

  std::string record(std::size_t method, std::span<const Tensor> inputs,
                     const RunCall& run_uncaptured) override {
    return graphs_.record(method, inputs, run_uncaptured);
  }

  [[nodiscard]] std::size_t recorded() const override { return graphs_.size(); }

 private:
  std::vector<Tensor> call(std::size_t method, std::span<const Tensor> inputs,
                           const RunCall& run_uncaptured) const {
    if (auto outputs = graphs_.replay(method, inputs)) return std::move(*outputs);
    return run_uncaptured(inputs);
  }

  Device device_;
  bool streams_per_caller_;
  CudaGraphs graphs_;
};

}  // namespace

std::string no_cuda_device() {
  return {};
}

std::unique_ptr<CudaDevice> make_cuda_device(Device device, const CudaOptions& options) {
  return std::make_unique<RealCudaDevice>(device, options);
}

void wait_for_device(Device device) {
  if (!device.is_cuda()) return;
  const std::shared_lock no_recording(recording_mutex());
  torch::cuda::synchronize(device.index);
}

}  // namespace isthmus::torch_engine
