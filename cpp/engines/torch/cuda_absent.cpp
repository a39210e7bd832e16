// Replaces cuda_device.cpp in builds without the headers of the CUDA runtime, or for a LibTorch
// without CUDA.
#include <torch/cuda.h>

#include "engines/torch/cuda_device.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {

std::string no_cuda_device() {
  return ISTHMUS_NO_CUDA_GRAPHS;
}

std::unique_ptr<CudaDevice> make_cuda_device(Device device, const CudaOptions&) {
  throw EngineUnavailable("CUDA graphs and streams per caller on " + to_string(device) +
                          " are not in this build of isthmus: " + no_cuda_device());
}

void wait_for_device(Device device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index);
}

}  // namespace isthmus::torch_engine
