#pragma once

#include <ATen/core/Tensor.h>

#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Converts a tensor that a model returned. The result is contiguous, and no other tensor of the
/// model has its memory; a tensor of which that is true is not copied. isthmus/torch.h has the
/// other direction.
/// @throws ExecutionError for layouts, devices and dtypes that isthmus does not support.
Tensor from_model(at::Tensor tensor);

/// Returns a contiguous copy on the same device that shares no memory with the original.
Tensor copy_of(const Tensor& tensor);

}  // namespace isthmus::torch_engine
