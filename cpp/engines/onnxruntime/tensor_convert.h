#pragma once

#include "engines/onnxruntime/api_loader.h"
#include "isthmus/tensor.h"

namespace isthmus::onnxruntime_engine {

/// @throws BundleError for the complex types, which ONNX Runtime does not run.
ONNXTensorElementDataType to_ort(DType dtype);

/// @throws ExecutionError for element types that isthmus does not carry (strings, 4-bit, 8-bit
/// floats).
DType from_ort(ONNXTensorElementDataType type);

/// Memory on the CPU or a CUDA device, as ONNX Runtime names it.
Ort::MemoryInfo memory_info(Device device);

/// A view of a contiguous tensor; the tensor must outlive it.
Ort::Value to_value(const Tensor& tensor, const Ort::MemoryInfo& memory);

/// What a session gave, without a copy: the tensor owns the value, which must be a dense tensor.
/// @throws ExecutionError for element types that isthmus does not carry.
Tensor from_value(Ort::Value value, Device device);

}  // namespace isthmus::onnxruntime_engine
