#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "isthmus/error.h"
#include "isthmus/signature.h"

using namespace isthmus;

namespace {

constexpr std::array kFloats{DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
constexpr std::array kKinds{kSpecialNaN,          kSpecialInfinity, kSpecialZero,
                            kSpecialNegativeZero, kSpecialDenormal, kSpecialLarge};

Signature signature(DType dtype, EngineLimit limit, ValueKind kind = ValueKind::kTensor) {
  limit.engine = "openvino";
  limit.origin = "at export";
  limit.advice = "use torchscript, or load with specials=allow";
  Signature result;
  result.inputs = {{.name = "x",
                    .kind = kind,
                    .dtype = dtype,
                    .shape = kind == ValueKind::kTensor
                                 ? std::optional<std::vector<Dim>>{}
                                 : std::optional<std::vector<Dim>>{std::vector<Dim>{}}}};
  result.inputs[0].limit = std::make_shared<const EngineLimit>(std::move(limit));
  return result;
}

std::uint64_t bits_of(DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat32:
      return std::bit_cast<std::uint32_t>(static_cast<float>(value));
    case DType::kBFloat16:
      return std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16;
    case DType::kFloat64:
      return std::bit_cast<std::uint64_t>(value);
    default:
      break;
  }
  if (std::isnan(value)) return 0x7E00;
  const std::uint64_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::abs(value);
  if (std::isinf(value)) return sign | 0x7C00;
  if (size < 0x1p-14) return sign | static_cast<std::uint64_t>(std::ldexp(size, 24));
  const int exponent = std::ilogb(size);
  return sign | ((static_cast<std::uint64_t>(exponent + 14) << 10) +
                 static_cast<std::uint64_t>(std::ldexp(size, 10 - exponent)));
}

double denormal(DType dtype) {
  return dtype == DType::kFloat16 ? 0x1p-20 : dtype == DType::kFloat64 ? 0x1p-1050 : 0x1p-130;
}

double large(DType dtype) {
  return dtype == DType::kFloat16 ? 4096 : 0x1p70;
}

/// Returns a tensor of 1.5 with one other element.
Tensor with(DType dtype, std::int64_t count, std::int64_t place, double value) {
  Tensor tensor = Tensor::empty(dtype, {count});
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t bits = bits_of(dtype, i == place ? value : 1.5);
    std::memcpy(
        static_cast<std::byte*>(tensor.data()) + i * static_cast<std::int64_t>(size_of(dtype)),
        &bits, size_of(dtype));
  }
  return tensor;
}

double value_of(DType dtype, Special kind) {
  switch (kind) {
    case kSpecialNaN:
      return std::numeric_limits<double>::quiet_NaN();
    case kSpecialInfinity:
      return -std::numeric_limits<double>::infinity();
    case kSpecialZero:
      return 0.0;
    case kSpecialNegativeZero:
      return -0.0;
    case kSpecialDenormal:
      return -denormal(dtype);
    default:
      return large(dtype);
  }
}

EngineLimit limit_of(DType dtype, std::uint8_t kinds) {
  EngineLimit limit;
  limit.specials = kinds;
  if (dtype == DType::kFloat16 && (kinds & kSpecialLarge) != 0)
    limit.values = ValueRange{-2048, 2048};
  return limit;
}

bool refused(DType dtype, const EngineLimit& limit, const Tensor& tensor) {
  std::vector<Tensor> inputs{tensor};
  try {
    check_inputs(signature(dtype, limit), std::span<Tensor>(inputs), {});
  } catch (const InvalidInput&) {
    return true;
  }
  return false;
}

}  // namespace

TEST_CASE("each kind is refused at every place of every dtype, and only where it is asked for") {
  for (const DType dtype : kFloats)
    for (const Special limited : kKinds) {
      const EngineLimit limit = limit_of(dtype, limited);
      for (const Special kind : kKinds) {
        // Zeros of both signs are zeros.
        const bool expected =
            kind == limited || (limited == kSpecialZero && kind == kSpecialNegativeZero);
        for (const std::int64_t count : {1, 7, 64, 1000})
          for (const std::int64_t place : {std::int64_t{0}, count / 2, count - 1}) {
            CAPTURE(name(dtype));
            CAPTURE(static_cast<int>(limited));
            CAPTURE(static_cast<int>(kind));
            CAPTURE(count);
            CHECK(refused(dtype, limit, with(dtype, count, place, value_of(dtype, kind))) ==
                  expected);
          }
      }
      CHECK_FALSE(refused(dtype, limit, with(dtype, 100, -1, 0)));
      CHECK_FALSE(refused(dtype, limit, Tensor::empty(dtype, {0})));
    }
}

TEST_CASE("limits of several kinds refuse each of them") {
  EngineLimit all;
  all.specials = 63;
  const EngineLimit none{};
  for (const DType dtype : kFloats)
    for (const Special kind : kKinds) {
      if (dtype == DType::kFloat16 && kind == kSpecialLarge) continue;  // nothing is beyond 2^62
      CHECK(refused(dtype, all, with(dtype, 33, 32, value_of(dtype, kind))));
      CHECK_FALSE(refused(dtype, none, with(dtype, 33, 32, value_of(dtype, kind))));
    }
}

TEST_CASE("numbers up to the limit are allowed, and neighbours beyond it are not") {
  EngineLimit limit;
  limit.values = ValueRange{-256, 256};
  for (const DType dtype : kFloats) {
    CHECK_FALSE(refused(dtype, limit, with(dtype, 9, 4, 256)));
    CHECK_FALSE(refused(dtype, limit, with(dtype, 9, 4, -256)));
    CHECK(refused(dtype, limit, with(dtype, 9, 4, 258)));
    CHECK(refused(dtype, limit, with(dtype, 9, 4, -258)));
    // Special values are not numbers beyond it.
    CHECK_FALSE(refused(dtype, limit, with(dtype, 9, 4, value_of(dtype, kSpecialNaN))));
    CHECK_FALSE(refused(dtype, limit, with(dtype, 9, 4, value_of(dtype, kSpecialInfinity))));
  }
  limit.values = ValueRange{-((std::int64_t{1} << 24) + 1), (std::int64_t{1} << 24) + 1};
  CHECK_FALSE(refused(DType::kFloat32, limit, with(DType::kFloat32, 1, 0, 0x1p24)));
  CHECK(refused(DType::kFloat32, limit, with(DType::kFloat32, 1, 0, 0x1p24 + 2)));
  CHECK_FALSE(refused(DType::kFloat64, limit, with(DType::kFloat64, 1, 0, 0x1p24 + 1)));
  limit.values = ValueRange{0, 0};
  CHECK_FALSE(refused(DType::kFloat32, limit, with(DType::kFloat32, 1, 0, 0)));
  CHECK(refused(DType::kFloat32, limit, with(DType::kFloat32, 1, 0, 1e-6)));
}

TEST_CASE("the message names the input, the value, its place, the engine, and what to do") {
  EngineLimit limit;
  limit.specials = kSpecialNaN;
  Tensor x = Tensor::empty(DType::kFloat32, {2, 3});
  std::fill_n(x.data_as<float>(), 6, 1.0f);
  x.data_as<float>()[5] = std::nanf("");
  std::vector<Tensor> inputs{x};
  CHECK_THROWS_WITH_AS(
      check_inputs(signature(DType::kFloat32, limit), std::span<Tensor>(inputs), {}),
      "input \"x\": NaN at [1, 2] of float32[2, 3] on cpu; openvino gave other answers than the "
      "model for NaN at export; use torchscript, or load with specials=allow",
      InvalidInput);
  limit.specials = 0;
  limit.values = ValueRange{-256, 256};
  x.data_as<float>()[5] = 300;
  CHECK_THROWS_WITH_AS(
      check_inputs(signature(DType::kFloat32, limit), std::span<Tensor>(inputs), {}),
      doctest::Contains("300 at [1, 2] of float32[2, 3] on cpu; openvino gave other answers than "
                        "the model for numbers beyond 256 at export"),
      InvalidInput);
}

TEST_CASE("integers and scalars have the range of the engine") {
  EngineLimit limit;
  limit.values = ValueRange{0, 2147483647};
  std::vector<Tensor> inputs{Tensor::copy_of({1, -1}, {2})};
  CHECK_THROWS_WITH_AS(
      check_inputs(signature(DType::kInt32, limit), std::span<Tensor>(inputs), {}),
      "input \"x\": expected values 0 to 2147483647, got -1 at [1] of int32[2] on cpu; beyond "
      "these, "
      "openvino gave other answers than the model at export; use torchscript, or load with "
      "specials=allow",
      InvalidInput);
  inputs[0] = Tensor::scalar<std::int64_t>(-1);
  const Signature count = signature(DType::kInt64, limit, ValueKind::kInteger);
  CHECK_THROWS_WITH_AS(check_inputs(count, std::span<Tensor>(inputs), {}),
                       doctest::Contains("got -1; beyond these, openvino"), InvalidInput);
  inputs[0] = Tensor::scalar<std::int64_t>(0);
  CHECK_NOTHROW(check_inputs(count, std::span<Tensor>(inputs), {}));
  limit.specials = kSpecialNaN;
  limit.values.reset();
  inputs[0] = Tensor::scalar<double>(std::nan(""));
  CHECK_THROWS_WITH_AS(check_inputs(signature(DType::kFloat64, limit, ValueKind::kFloating),
                                    std::span<Tensor>(inputs), {}),
                       doctest::Contains("input \"x\": NaN; openvino"), InvalidInput);
}
