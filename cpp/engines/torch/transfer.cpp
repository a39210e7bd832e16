#include "engines/torch/transfer.h"

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <optional>

#include "engines/torch/tensor_convert.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

/// The largest copy, in bytes, that goes through page-locked memory: copying more into it takes
/// longer than waiting for the device, and LibTorch would keep that much memory.
constexpr std::size_t kMaxStagedBytes = std::size_t{64} << 20;

}  // namespace

Tensor transfer_to(const Tensor& tensor, Device device) {
  if (tensor.device() == device) return tensor;
  const c10::InferenceMode no_gradients;
  const c10::OptionalDeviceGuard on_device(device.is_cuda() ? std::optional(to_torch(device))
                                                            : std::nullopt);
  const at::Tensor given = to_torch(tensor);
  const bool staged = tensor.device().is_cpu() && device.is_cuda() && tensor.nbytes() != 0 &&
                      tensor.nbytes() <= kMaxStagedBytes;
  return from_model(staged ? given.pin_memory().to(to_torch(device), /*non_blocking=*/true)
                           : given.to(to_torch(device)));
}

}  // namespace isthmus::torch_engine
