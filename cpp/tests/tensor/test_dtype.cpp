#include <doctest/doctest.h>

#include "isthmus/dtype.h"

using namespace isthmus;

TEST_CASE("names are PyTorch's, and can be parsed") {
  const std::pair<DType, const char*> all[] = {
      {DType::kBool, "bool"},
      {DType::kUInt8, "uint8"},
      {DType::kInt8, "int8"},
      {DType::kUInt16, "uint16"},
      {DType::kInt16, "int16"},
      {DType::kUInt32, "uint32"},
      {DType::kInt32, "int32"},
      {DType::kUInt64, "uint64"},
      {DType::kInt64, "int64"},
      {DType::kFloat16, "float16"},
      {DType::kBFloat16, "bfloat16"},
      {DType::kFloat32, "float32"},
      {DType::kFloat64, "float64"},
      {DType::kComplex64, "complex64"},
      {DType::kComplex128, "complex128"},
  };
  for (const auto& [dtype, text] : all) {
    CHECK(name(dtype) == text);
    CHECK(parse_dtype(text) == dtype);
  }
  CHECK_FALSE(parse_dtype("float").has_value());
  CHECK_FALSE(parse_dtype("").has_value());
}

TEST_CASE("C++ types map to dtypes") {
  CHECK(dtype_of<float>::value == DType::kFloat32);
  CHECK(dtype_of<double>::value == DType::kFloat64);
  CHECK(dtype_of<std::int64_t>::value == DType::kInt64);
  CHECK(dtype_of<bool>::value == DType::kBool);
  CHECK(dtype_of<std::uint8_t>::value == DType::kUInt8);
}
