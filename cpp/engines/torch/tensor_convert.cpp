#include "engines/torch/tensor_convert.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kUInt8:
      return at::kByte;
    case DType::kInt8:
      return at::kChar;
    case DType::kUInt16:
      return at::kUInt16;
    case DType::kInt16:
      return at::kShort;
    case DType::kUInt32:
      return at::kUInt32;
    case DType::kInt32:
      return at::kInt;
    case DType::kUInt64:
      return at::kUInt64;
    case DType::kInt64:
      return at::kLong;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat32:
      return at::kFloat;
    case DType::kFloat64:
      return at::kDouble;
    case DType::kComplex64:
      return at::kComplexFloat;
    case DType::kComplex128:
      return at::kComplexDouble;
  }
  throw InvalidInput("a dtype that LibTorch does not have");
}

DType dtype_of_torch(at::ScalarType type) {
  switch (type) {
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kUInt8;
    case at::kChar:
      return DType::kInt8;
    case at::kUInt16:
      return DType::kUInt16;
    case at::kShort:
      return DType::kInt16;
    case at::kUInt32:
      return DType::kUInt32;
    case at::kInt:
      return DType::kInt32;
    case at::kUInt64:
      return DType::kUInt64;
    case at::kLong:
      return DType::kInt64;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kComplexFloat:
      return DType::kComplex64;
    case at::kComplexDouble:
      return DType::kComplex128;
    default:
      throw ExecutionError(std::string("the model gave a tensor of dtype ") + c10::toString(type) +
                           ", which cannot cross: convert or dequantise it inside the model");
  }
}

}  // namespace

c10::Device to_torch(Device device) {
  if (device.is_cpu()) return c10::Device(c10::kCPU);
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device.index));
}

at::Tensor to_torch(const Tensor& tensor) {
  const auto options =
      at::TensorOptions().dtype(scalar_type(tensor.dtype())).device(to_torch(tensor.device()));
  // LibTorch does not take a null pointer, which an empty tensor may have.
  if (tensor.data() == nullptr) return at::empty(tensor.shape(), options);
  auto blob = at::for_blob(tensor.data(), tensor.shape());
  blob.options(options).target_device(options.device());
  if (tensor.owner() == nullptr) return blob.make_tensor();
  using Owner = std::shared_ptr<void>;
  auto owner = std::make_unique<Owner>(tensor.owner());
  return blob
      .context(owner.release(),
               [](void* kept) { std::unique_ptr<Owner>(static_cast<Owner*>(kept)); })
      .make_tensor();
}

Tensor from_torch(at::Tensor tensor) {
  if (tensor.layout() != at::kStrided || tensor.is_quantized())
    throw ExecutionError(
        "the model gave a sparse or quantised tensor, which cannot cross: make it "
        "dense (to_dense, dequantize) inside the model");
  const DType dtype = dtype_of_torch(tensor.scalar_type());
  if (tensor.is_conj() || tensor.is_neg()) tensor = tensor.resolve_conj().resolve_neg();
  if (!tensor.is_contiguous()) tensor = tensor.contiguous();
  const c10::Device device = tensor.device();
  if (!device.is_cpu() && !device.is_cuda())
    throw ExecutionError("the model gave a tensor on " + device.str() + "; expected cpu or cuda");
  const Device where{device.is_cpu() ? DeviceType::kCpu : DeviceType::kCuda,
                     device.is_cpu() ? 0 : static_cast<int>(device.index())};
  const auto sizes = tensor.sizes();
  Shape shape(sizes.begin(), sizes.end());
  void* data = tensor.data_ptr();
  return Tensor::wrap(data, dtype, std::move(shape),
                      std::make_shared<at::Tensor>(std::move(tensor)), where);
}

}  // namespace isthmus::torch_engine
