#pragma once

#include "engines/onnxruntime/api_loader.h"
#include "isthmus/tensor.h"

namespace isthmus::onnxruntime_engine {

/// @throws BundleError for a dtype that ONNX Runtime does not have.
ONNXTensorElementDataType to_ort(DType dtype);

/// @throws ExecutionError for element types that isthmus does not support (strings, 4-bit integers,
/// 8-bit floats).
DType from_ort(ONNXTensorElementDataType type);

/// Returns ONNX Runtime's description of the memory of a device.
Ort::MemoryInfo memory_info(Device device);

/// Returns a view of a contiguous tensor, which must outlive it.
Ort::Value to_value(const Tensor& tensor, const Ort::MemoryInfo& memory);

/// Converts a dense tensor that a session returned, without a copy; the result owns the value.
/// @throws ExecutionError for element types that isthmus does not support.
Tensor from_value(Ort::Value value, Device device);

}  // namespace isthmus::onnxruntime_engine
