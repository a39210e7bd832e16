#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Device in LibTorch's words.
c10::Device to_torch(Device device);

/// The same data as an at::Tensor, without a copy; it keeps the owner alive. The tensor must be
/// contiguous, as Model's checks make it.
at::Tensor to_torch(const Tensor& tensor);

/// The same data as an isthmus::Tensor, without a copy unless it is not contiguous; owns its
/// memory.
/// @throws ExecutionError for layouts and dtypes that isthmus does not carry.
Tensor from_torch(at::Tensor tensor);

}  // namespace isthmus::torch_engine
