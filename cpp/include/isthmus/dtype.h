#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "isthmus/export.h"

namespace isthmus {

/// Element type of a tensor. One table (core/tensor/dtype.cpp) gives each its name, size, DLPack
/// code and safetensors name.
enum class DType : std::uint8_t {
  kBool,
  kUInt8,
  kInt8,
  kUInt16,
  kInt16,
  kUInt32,
  kInt32,
  kUInt64,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex64,
  kComplex128,
};

/// Name as in PyTorch and NumPy: "float32", "int64", "bool", "bfloat16", ...
ISTHMUS_API std::string_view name(DType dtype) noexcept;

/// Bytes of one element.
ISTHMUS_API std::size_t size_of(DType dtype) noexcept;

/// Inverse of `name`; nullopt for an unknown name.
ISTHMUS_API std::optional<DType> parse_dtype(std::string_view name) noexcept;

/// True for the float and complex types.
ISTHMUS_API bool is_floating(DType dtype) noexcept;

/// DType of a C++ arithmetic type.
template <typename T>
struct dtype_of;
template <>
struct dtype_of<bool> {
  static constexpr DType value = DType::kBool;
};
template <>
struct dtype_of<std::uint8_t> {
  static constexpr DType value = DType::kUInt8;
};
template <>
struct dtype_of<std::int8_t> {
  static constexpr DType value = DType::kInt8;
};
template <>
struct dtype_of<std::int16_t> {
  static constexpr DType value = DType::kInt16;
};
template <>
struct dtype_of<std::int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct dtype_of<std::int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::kFloat64;
};

}  // namespace isthmus
