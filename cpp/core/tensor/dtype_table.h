#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/tensor/dlpack_abi.h"
#include "isthmus/dtype.h"

namespace isthmus {

/// A row of the table of element types.
struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::string_view safetensors;  // empty: the format has no such type
  std::size_t size;              // bytes
  std::uint8_t dlpack_code;
  bool floating;
};

inline constexpr std::array<DTypeRow, 15> kDTypes{{
    {DType::kBool, "bool", "BOOL", 1, dlpack::kBool, false},
    {DType::kUInt8, "uint8", "U8", 1, dlpack::kUInt, false},
    {DType::kInt8, "int8", "I8", 1, dlpack::kInt, false},
    {DType::kUInt16, "uint16", "U16", 2, dlpack::kUInt, false},
    {DType::kInt16, "int16", "I16", 2, dlpack::kInt, false},
    {DType::kUInt32, "uint32", "U32", 4, dlpack::kUInt, false},
    {DType::kInt32, "int32", "I32", 4, dlpack::kInt, false},
    {DType::kUInt64, "uint64", "U64", 8, dlpack::kUInt, false},
    {DType::kInt64, "int64", "I64", 8, dlpack::kInt, false},
    {DType::kFloat16, "float16", "F16", 2, dlpack::kFloat, true},
    {DType::kBFloat16, "bfloat16", "BF16", 2, dlpack::kBfloat, true},
    {DType::kFloat32, "float32", "F32", 4, dlpack::kFloat, true},
    {DType::kFloat64, "float64", "F64", 8, dlpack::kFloat, true},
    {DType::kComplex64, "complex64", "C64", 8, dlpack::kComplex, true},
    {DType::kComplex128, "complex128", "", 16, dlpack::kComplex, true},
}};

constexpr const DTypeRow& row_of(DType dtype) noexcept {
  return kDTypes[static_cast<std::size_t>(dtype)];
}

}  // namespace isthmus
