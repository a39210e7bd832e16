#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

#include "isthmus/export.h"

namespace isthmus {

/// The element type of a tensor. core/tensor/dtype_table.h lists the name, size, DLPack code and
/// safetensors name of each.
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

/// Returns the name that PyTorch and NumPy use: "float32", "int64", "bool", "bfloat16", ...
ISTHMUS_API std::string_view name(DType dtype) noexcept;

/// Returns the size of one element in bytes.
ISTHMUS_API std::size_t size_of(DType dtype) noexcept;

/// Inverse of `name`. Returns nullopt for an unknown name.
ISTHMUS_API std::optional<DType> parse_dtype(std::string_view name) noexcept;

/// Returns true for the float and complex types.
ISTHMUS_API bool is_floating(DType dtype) noexcept;

/// The DType of a C++ arithmetic type, `dtype_of<float>::value`.
template <typename T>
struct dtype_of;
template <>
struct dtype_of<bool> : std::integral_constant<DType, DType::kBool> {};
template <>
struct dtype_of<std::uint8_t> : std::integral_constant<DType, DType::kUInt8> {};
template <>
struct dtype_of<std::int8_t> : std::integral_constant<DType, DType::kInt8> {};
template <>
struct dtype_of<std::uint16_t> : std::integral_constant<DType, DType::kUInt16> {};
template <>
struct dtype_of<std::int16_t> : std::integral_constant<DType, DType::kInt16> {};
template <>
struct dtype_of<std::uint32_t> : std::integral_constant<DType, DType::kUInt32> {};
template <>
struct dtype_of<std::int32_t> : std::integral_constant<DType, DType::kInt32> {};
template <>
struct dtype_of<std::uint64_t> : std::integral_constant<DType, DType::kUInt64> {};
template <>
struct dtype_of<std::int64_t> : std::integral_constant<DType, DType::kInt64> {};
template <>
struct dtype_of<float> : std::integral_constant<DType, DType::kFloat32> {};
template <>
struct dtype_of<double> : std::integral_constant<DType, DType::kFloat64> {};

}  // namespace isthmus
