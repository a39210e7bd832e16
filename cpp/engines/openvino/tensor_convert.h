#pragma once

#include "engines/openvino/api_loader.h"
#include "isthmus/tensor.h"

namespace isthmus::openvino_engine {

/// A view of a contiguous CPU tensor; the tensor must outlive it.
/// @throws ExecutionError for the complex types.
Held<ov_tensor_t> to_openvino(const Api& api, const Tensor& tensor);

/// A copy of what a request gave: the request writes its outputs again at the next call.
/// @throws ExecutionError for element types that isthmus does not carry.
Tensor copy_of(const Api& api, const ov_tensor_t* tensor);

}  // namespace isthmus::openvino_engine
