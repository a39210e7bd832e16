#include "engines/openvino/tensor_convert.h"

#include <array>
#include <cstring>
#include <utility>

#include "isthmus/error.h"

namespace isthmus::openvino_engine {
namespace {

constexpr std::array<std::pair<DType, ov_element_type_e>, 13> kTypes{{
    {DType::kBool, BOOLEAN},
    {DType::kUInt8, U8},
    {DType::kInt8, I8},
    {DType::kUInt16, U16},
    {DType::kInt16, I16},
    {DType::kUInt32, U32},
    {DType::kInt32, I32},
    {DType::kUInt64, U64},
    {DType::kInt64, I64},
    {DType::kFloat16, F16},
    {DType::kBFloat16, BF16},
    {DType::kFloat32, F32},
    {DType::kFloat64, F64},
}};

ov_element_type_e element_type(DType dtype) {
  for (const auto& [ours, theirs] : kTypes)
    if (ours == dtype) return theirs;
  throw ExecutionError("OpenVINO has no elements of dtype " + std::string(name(dtype)) +
                       "; use another engine");
}

DType dtype_of_element(ov_element_type_e type) {
  for (const auto& [ours, theirs] : kTypes)
    if (theirs == type) return ours;
  throw ExecutionError("the model gave elements of OpenVINO type " + std::to_string(type) +
                       ", which isthmus does not support; cast them inside the model");
}

}  // namespace

Handle<ov_tensor_t> to_openvino(const Api& api, const Tensor& tensor) {
  // OpenVINO refuses a null pointer, which an empty tensor may have.
  static std::byte nothing{};
  Shape sizes = tensor.shape();
  const ov_shape_t shape{static_cast<std::int64_t>(sizes.size()), sizes.data()};
  void* data = tensor.data() == nullptr ? &nothing : tensor.data();
  ov_tensor_t* view = nullptr;
  require(api, api.ov_tensor_create_from_host_ptr(element_type(tensor.dtype()), shape, data, &view),
          "wrapping an input");
  return {view, api.ov_tensor_free};
}

Tensor copy_of(const Api& api, const ov_tensor_t* tensor) {
  ov_element_type_e type = DYNAMIC;
  ov_shape_t shape{};
  void* data = nullptr;
  require(api, api.ov_tensor_get_element_type(tensor, &type), "reading an output's type");
  const ov_status_e status = api.ov_tensor_get_shape(tensor, &shape);
  // The C API has no shape without dimensions, so it refuses to give that of a scalar.
  std::size_t elements = 0;
  const bool scalar =
      status == INVALID_C_PARAM && api.ov_tensor_get_size(tensor, &elements) == OK && elements == 1;
  if (!scalar) require(api, status, "reading an output's shape");
  Shape sizes(shape.dims, shape.dims + shape.rank);
  api.ov_shape_free(&shape);
  Tensor copy = Tensor::empty(dtype_of_element(type), std::move(sizes));
  if (copy.nbytes() == 0) return copy;
  require(api, api.ov_tensor_data(tensor, &data), "reading an output");
  std::memcpy(copy.data(), data, copy.nbytes());
  return copy;
}

}  // namespace isthmus::openvino_engine
