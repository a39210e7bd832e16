#pragma once

#include "engines/openvino/api_loader.h"
#include "isthmus/tensor.h"

namespace isthmus::openvino_engine {

/// Returns a view of a contiguous CPU tensor, which must outlive it.
/// @throws ExecutionError for the complex types.
Handle<ov_tensor_t> to_openvino(const Api& api, const Tensor& tensor);

/// Copies an output of a request, which the next call of the request overwrites.
/// @throws ExecutionError for element types that isthmus does not support.
Tensor copy_of(const Api& api, const ov_tensor_t* tensor);

}  // namespace isthmus::openvino_engine
