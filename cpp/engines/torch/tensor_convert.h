#pragma once

#include <ATen/core/Tensor.h>

#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// What a model gave, as an isthmus::Tensor: contiguous, without a copy where it is so already;
/// owns its memory. The other direction, and the tables, are those of isthmus/torch.h.
/// @throws ExecutionError for layouts, devices and dtypes that isthmus does not carry.
Tensor from_model(at::Tensor tensor);

/// A copy on the same device that shares nothing with the original.
Tensor copy_of(const Tensor& tensor);

}  // namespace isthmus::torch_engine
