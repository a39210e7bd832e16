#include "engines/onnxruntime/tensor_convert.h"

#include <array>
#include <string>
#include <utility>

#include "isthmus/error.h"

namespace isthmus::onnxruntime_engine {
namespace {

constexpr std::array<std::pair<DType, ONNXTensorElementDataType>, 15> kTypes{{
    {DType::kBool, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {DType::kUInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {DType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {DType::kUInt16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},
    {DType::kInt16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},
    {DType::kUInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},
    {DType::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {DType::kUInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64},
    {DType::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {DType::kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {DType::kBFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16},
    {DType::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {DType::kFloat64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
    {DType::kComplex64, ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64},
    {DType::kComplex128, ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128},
}};
static_assert(
    [] {
      for (std::size_t i = 0; i < kTypes.size(); ++i)
        if (static_cast<std::size_t>(kTypes[i].first) != i) return false;
      return true;
    }(),
    "the table is indexed by DType");

}  // namespace

ONNXTensorElementDataType to_ort(DType dtype) {
  return kTypes[static_cast<std::size_t>(dtype)].second;
}

DType from_ort(ONNXTensorElementDataType type) {
  for (const auto& [ours, theirs] : kTypes)
    if (theirs == type) return ours;
  throw ExecutionError("the model gave elements of ONNX type " + std::to_string(type) +
                       ", which isthmus does not support; cast them inside the model");
}

Ort::MemoryInfo memory_info(Device device) {
  if (device.is_cpu()) return Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  return {"Cuda", OrtDeviceAllocator, device.index, OrtMemTypeDefault};
}

Ort::Value to_value(const Tensor& tensor, const Ort::MemoryInfo& memory) {
  // ONNX Runtime refuses a null pointer, which an empty tensor may have.
  static std::byte nothing{};
  void* data = tensor.data() == nullptr ? &nothing : tensor.data();
  return Ort::Value::CreateTensor(memory, data, tensor.nbytes(), tensor.shape().data(),
                                  tensor.rank(), to_ort(tensor.dtype()));
}

Tensor from_value(Ort::Value value, Device device) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  void* data = value.GetTensorMutableRawData();
  const DType dtype = from_ort(info.GetElementType());
  Shape shape = info.GetShape();
  auto owner = std::make_shared<Ort::Value>(std::move(value));
  return Tensor::wrap(data, dtype, std::move(shape), std::move(owner), device);
}

}  // namespace isthmus::onnxruntime_engine
