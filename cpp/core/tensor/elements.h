#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <limits>

#include "isthmus/tensor.h"

namespace isthmus {

/// Returns the value of an IEEE 754 binary16.
inline double half_to_double(std::uint16_t bits) noexcept {
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  double magnitude = 0;
  if (exponent == 0x1F)
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  else if (exponent == 0)
    magnitude = std::ldexp(fraction, -24);
  else
    magnitude = std::ldexp(fraction + 1024, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// Returns the value of a bfloat16, which is the upper half of a float32.
inline double bfloat16_to_double(std::uint16_t bits) noexcept {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

/// The elements of contiguous host memory. Floats are read as double, complex numbers as
/// std::complex<double>, integers and booleans as std::int64_t or std::uint64_t.
template <typename Stored, typename Value>
struct Elements {
  const Stored* data;
  std::int64_t size;
  using value_type = Value;
  Value operator[](std::int64_t i) const noexcept { return static_cast<Value>(data[i]); }
};

template <double (*convert)(std::uint16_t) noexcept>
struct HalfElements {
  const std::uint16_t* data;
  std::int64_t size;
  using value_type = double;
  double operator[](std::int64_t i) const noexcept { return convert(data[i]); }
};

/// Calls `visit` with the elements of a contiguous CPU tensor.
template <typename Visit>
decltype(auto) visit_elements(const Tensor& tensor, Visit&& visit) {
  const std::int64_t n = tensor.numel();
  const void* data = tensor.data();
  const auto as = [&]<typename Stored, typename Value>() -> decltype(auto) {
    return visit(Elements<Stored, Value>{static_cast<const Stored*>(data), n});
  };
  switch (tensor.dtype()) {
    case DType::kBool:  // as bytes, because a bool that holds 2 is undefined behaviour
    case DType::kUInt8:
      return as.template operator()<std::uint8_t, std::uint64_t>();
    case DType::kInt8:
      return as.template operator()<std::int8_t, std::int64_t>();
    case DType::kUInt16:
      return as.template operator()<std::uint16_t, std::uint64_t>();
    case DType::kInt16:
      return as.template operator()<std::int16_t, std::int64_t>();
    case DType::kUInt32:
      return as.template operator()<std::uint32_t, std::uint64_t>();
    case DType::kInt32:
      return as.template operator()<std::int32_t, std::int64_t>();
    case DType::kUInt64:
      return as.template operator()<std::uint64_t, std::uint64_t>();
    case DType::kInt64:
      return as.template operator()<std::int64_t, std::int64_t>();
    case DType::kFloat16:
      return visit(HalfElements<half_to_double>{static_cast<const std::uint16_t*>(data), n});
    case DType::kBFloat16:
      return visit(HalfElements<bfloat16_to_double>{static_cast<const std::uint16_t*>(data), n});
    case DType::kFloat64:
      return as.template operator()<double, double>();
    case DType::kComplex64:
      return as.template operator()<std::complex<float>, std::complex<double>>();
    case DType::kComplex128:
      return as.template operator()<std::complex<double>, std::complex<double>>();
    case DType::kFloat32:
      break;
  }
  return as.template operator()<float, double>();
}

}  // namespace isthmus
