#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <complex>
#include <limits>
#include <numeric>

#include "core/tensor/elements.h"
#include "isthmus/error.h"
#include "isthmus/parity.h"

using namespace isthmus;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr float kNanF = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfF = std::numeric_limits<float>::infinity();

Tensor floats(std::initializer_list<float> values, Shape shape = {}) {
  if (shape.empty()) shape = {static_cast<std::int64_t>(values.size())};
  return Tensor::copy_of(values, std::move(shape));
}

template <typename T>
Tensor raw(DType dtype, std::initializer_list<T> values) {
  Tensor tensor = Tensor::empty(dtype, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), static_cast<T*>(tensor.data()));
  return tensor;
}

OutputParity check(const Tensor& reference, const Tensor& actual, double atol = 0,
                   double rtol = 0) {
  return compare("y", reference, actual, {.atol = atol, .rtol = rtol});
}

bool mentions(const std::string& text, std::string_view word) {
  return text.find(word) != std::string::npos;
}

}  // namespace

TEST_CASE("equal tensors pass with zero tolerance") {
  const OutputParity result = check(floats({1, -2, 3}), floats({1, -2, 3}));
  CHECK(result);
  CHECK(result.output == "y");
  CHECK(result.reason.empty());
  CHECK(result.max_abs == 0);
  CHECK(result.cosine == doctest::Approx(1));
  CHECK(result.elements == 3);
  CHECK(result.strain() == 0);
}

TEST_CASE("absolute and relative error, and the atol that would pass") {
  const OutputParity result = check(floats({1, 100}), floats({1.5F, 101}), 0.1, 0.001);
  CHECK_FALSE(result);
  CHECK(result.max_abs == doctest::Approx(1));
  CHECK(result.max_rel == doctest::Approx(0.5));
  CHECK(result.passing_atol == doctest::Approx(0.9));
  CHECK(result.atol == 0.1);
  CHECK(result.rtol == 0.001);
  CHECK(result.strain() == doctest::Approx(9));
  CHECK(mentions(result.reason, "beyond atol 0.1"));
  CHECK(mentions(result.reason, "atol 0.9 would pass"));

  SUBCASE("the tolerance that it names does pass") {
    CHECK(check(floats({1, 100}), floats({1.5F, 101}), result.passing_atol, 0.001));
  }
  SUBCASE("and anything less does not") {
    CHECK_FALSE(check(floats({1, 100}), floats({1.5F, 101}), std::nextafter(result.passing_atol, 0),
                      0.001));
  }
}

TEST_CASE("one unit in the last place passes, a dropped bias fails") {
  const Tensor reference = floats({0.3F, -0.7F});
  CHECK(check(reference, floats({std::nextafter(0.3F, 1.0F), -0.7F}), 1e-6));
  CHECK_FALSE(check(reference, floats({0.31F, -0.69F}), 1e-6));
}

TEST_CASE("rtol counts against the reference, not against the answer") {
  CHECK(check(floats({10}), floats({11}), 0, 0.1));
  CHECK_FALSE(check(floats({10}), floats({11.2F}), 0, 0.11));
}

TEST_CASE("there is no relative error where the reference is zero") {
  CHECK(check(floats({0}), floats({1}), 2).max_rel == 0);
}

TEST_CASE("the noise floor is the unit of the error") {
  const NoiseFloor noise{.max_abs = 0.25, .rms = 0, .method = "float64"};
  CHECK(compare("y", floats({1}), floats({2}), {2, 0}, &noise).noise_units == doctest::Approx(4));
  const NoiseFloor exact{.max_abs = 0, .rms = 0, .method = "exact"};
  CHECK(compare("y", floats({1}), floats({2}), {2, 0}, &exact).noise_units == 0);
}

TEST_CASE("NaN equals NaN at the same place and nowhere else") {
  const OutputParity same = check(floats({kNanF, 1}), floats({kNanF, 1}));
  CHECK(same);
  CHECK(same.nans == 1);
  CHECK(same.max_abs == 0);

  for (const auto& [reference, actual] :
       {std::pair{floats({kNanF, 1}), floats({1, 1})}, {floats({1, 1}), floats({kNanF, 1})}}) {
    const OutputParity result = check(reference, actual, 100);
    CHECK_FALSE(result);
    CHECK(result.nan_mismatches == 1);
    CHECK(result.passing_atol == kInf);
    CHECK(mentions(result.reason, "1 of 2 elements are NaN on one side only"));
  }
}

TEST_CASE("infinities equal themselves, sign included") {
  CHECK(check(floats({kInfF, -kInfF}), floats({kInfF, -kInfF})).infs == 2);
  CHECK(check(floats({kInfF, -kInfF}), floats({kInfF, -kInfF})));
  for (const Tensor& actual : {floats({-kInfF}), floats({1}), floats({3e38F})}) {
    const OutputParity result = check(floats({kInfF}), actual, 1e300, 1);
    CHECK_FALSE(result);
    CHECK(result.inf_mismatches == 1);
    CHECK(mentions(result.reason, "infinite on one side only"));
  }
  const OutputParity against_nan = check(floats({kInfF}), floats({kNanF}));
  CHECK(against_nan.nan_mismatches == 1);
  CHECK(against_nan.inf_mismatches == 0);
}

TEST_CASE("integers and booleans must be equal with any tolerance") {
  const auto ints = [](std::initializer_list<std::int64_t> v) {
    return Tensor::copy_of(v, {static_cast<std::int64_t>(v.size())});
  };
  CHECK(check(ints({1, 2}), ints({1, 2})));
  const OutputParity result = check(ints({1, 2}), ints({1, 3}), 10, 10);
  CHECK_FALSE(result);
  CHECK(result.max_abs == 1);
  CHECK(mentions(result.reason, "1 of 2 elements differ, and whole numbers must be equal"));

  SUBCASE("also where float64 cannot tell them apart") {
    constexpr std::int64_t kBig = std::int64_t{1} << 60;
    CHECK_FALSE(check(ints({kBig}), ints({kBig + 1})));
  }
  SUBCASE("booleans") {
    CHECK(check(raw<std::uint8_t>(DType::kBool, {0, 1}), raw<std::uint8_t>(DType::kBool, {0, 1})));
    CHECK_FALSE(
        check(raw<std::uint8_t>(DType::kBool, {0, 1}), raw<std::uint8_t>(DType::kBool, {1, 1})));
  }
  SUBCASE("the largest unsigned number") {
    constexpr std::uint64_t kMax = ~std::uint64_t{0};
    CHECK(check(raw<std::uint64_t>(DType::kUInt64, {kMax}),
                raw<std::uint64_t>(DType::kUInt64, {kMax})));
    CHECK_FALSE(check(raw<std::uint64_t>(DType::kUInt64, {kMax}),
                      raw<std::uint64_t>(DType::kUInt64, {kMax - 1})));
  }
}

TEST_CASE_TEMPLATE("every integer type is read at its width", T, std::int8_t, std::uint8_t,
                   std::int16_t, std::uint16_t, std::int32_t, std::uint32_t) {
  const DType dtype = std::is_same_v<T, std::int8_t>     ? DType::kInt8
                      : std::is_same_v<T, std::uint8_t>  ? DType::kUInt8
                      : std::is_same_v<T, std::int16_t>  ? DType::kInt16
                      : std::is_same_v<T, std::uint16_t> ? DType::kUInt16
                      : std::is_same_v<T, std::int32_t>  ? DType::kInt32
                                                         : DType::kUInt32;
  const T lowest = std::numeric_limits<T>::lowest();
  const T highest = std::numeric_limits<T>::max();
  const OutputParity result = check(raw<T>(dtype, {lowest, 5}), raw<T>(dtype, {highest, 5}));
  CHECK(result.max_abs == static_cast<double>(highest) - static_cast<double>(lowest));
  CHECK_FALSE(result);
}

TEST_CASE("half precision is read from its bits") {
  CHECK(half_to_double(0x3C00) == 1);
  CHECK(half_to_double(0xC000) == -2);
  CHECK(half_to_double(0x7BFF) == 65504);
  CHECK(half_to_double(0x0400) == std::ldexp(1, -14));
  CHECK(half_to_double(0x0001) == std::ldexp(1, -24));
  CHECK(half_to_double(0x83FF) == -std::ldexp(1023, -24));
  CHECK(std::signbit(half_to_double(0x8000)));
  CHECK(half_to_double(0xFC00) == -kInf);
  CHECK(std::isnan(half_to_double(0x7E00)));
  CHECK(bfloat16_to_double(0x3F80) == 1);
  CHECK(bfloat16_to_double(0xC0A0) == -5);
  CHECK(bfloat16_to_double(0x7F80) == kInf);
  CHECK(std::isnan(bfloat16_to_double(0xFFC0)));

  const OutputParity half = check(raw<std::uint16_t>(DType::kFloat16, {0x3C00, 0x7E00}),
                                  raw<std::uint16_t>(DType::kFloat16, {0x4000, 0x7E00}), 0.5);
  CHECK_FALSE(half);
  CHECK(half.max_abs == 1);
  CHECK(half.nans == 1);
  const OutputParity brain = check(raw<std::uint16_t>(DType::kBFloat16, {0x3F80}),
                                   raw<std::uint16_t>(DType::kBFloat16, {0xC0A0}), 7);
  CHECK(brain);
  CHECK(brain.max_abs == 6);
}

TEST_CASE("complex numbers differ by the modulus") {
  using C = std::complex<double>;
  const OutputParity result = check(raw<C>(DType::kComplex128, {{1, 1}, {0, 2}}),
                                    raw<C>(DType::kComplex128, {{4, 5}, {0, 2}}), 4.9);
  CHECK_FALSE(result);
  CHECK(result.max_abs == doctest::Approx(5));
  CHECK(result.max_rel == doctest::Approx(5 / std::sqrt(2)));
  CHECK(result.elements == 2);
  CHECK(result.argmax_agreement == 1);
  CHECK(check(raw<std::complex<float>>(DType::kComplex64, {{1, 2}}),
              raw<std::complex<float>>(DType::kComplex64, {{1, 2}})));
  CHECK(check(raw<C>(DType::kComplex128, {{std::nan(""), 0}}),
              raw<C>(DType::kComplex128, {{0, std::nan("")}})));
  CHECK(check(raw<C>(DType::kComplex128, {{kInf, 0}}), raw<C>(DType::kComplex128, {{0, kInf}}))
            .inf_mismatches == 1);
}

TEST_CASE("cosine similarity") {
  CHECK(check(floats({1, 0}), floats({0, 1}), 9).cosine == doctest::Approx(0));
  CHECK(check(floats({1, 2}), floats({-1, -2}), 9).cosine == doctest::Approx(-1));
  CHECK(check(floats({0, 0}), floats({0, 0})).cosine == 1);
  CHECK(check(floats({0, 0}), floats({0, 1}), 9).cosine == 0);
  SUBCASE("squares beyond the range of a double") {
    const Tensor huge = raw<double>(DType::kFloat64, {1e200, 1e-200});
    CHECK(check(huge, huge).cosine == doctest::Approx(1));
    const Tensor tiny = raw<double>(DType::kFloat64, {1e-200, 1e-200});
    CHECK(check(tiny, tiny).cosine == doctest::Approx(1));
  }
}

TEST_CASE("argmax agreement along the last axis") {
  const Tensor reference = floats({1, 2, 3, 9, 8, 7}, {2, 3});
  CHECK(check(reference, floats({1, 2, 3, 8, 9, 7}, {2, 3}), 9).argmax_agreement == 0.5);
  CHECK(check(reference, floats({0, 0, 1, 3, 2, 2}, {2, 3}), 99).argmax_agreement == 1);
  SUBCASE("the first of equal elements, and NaN above all, as PyTorch has it") {
    CHECK(check(floats({5, 5}), floats({5, 4}), 9).argmax_agreement == 1);
    CHECK(check(floats({1, kNanF, 9}), floats({1, kNanF, 3}), 9).argmax_agreement == 1);
    CHECK(check(floats({1, kNanF, 9}), floats({kNanF, 1, 9}), 9).argmax_agreement == 0);
  }
  SUBCASE("a scalar agrees with itself") {
    CHECK(check(Tensor::scalar(1.0F), Tensor::scalar(2.0F), 9).argmax_agreement == 1);
  }
}

TEST_CASE("dtype, shape and presence must agree") {
  const OutputParity dtype = check(floats({1}), raw<double>(DType::kFloat64, {1}), 9);
  CHECK_FALSE(dtype);
  CHECK(mentions(dtype.reason, "expected float32[1]"));
  CHECK(mentions(dtype.reason, "got float64[1]"));
  CHECK(dtype.passing_atol == kInf);
  const OutputParity shape = check(floats({1, 2}, {2, 1}), floats({1, 2}, {1, 2}), 9);
  CHECK(mentions(shape.reason, "[2, 1]"));
  CHECK(mentions(shape.reason, "[1, 2]"));
  CHECK(mentions(check(floats({1}), Tensor{}, 9).reason, "got nothing (None)"));
  CHECK(mentions(check(Tensor{}, floats({1}), 9).reason, "expected nothing (None)"));
  CHECK(check(Tensor{}, Tensor{}));
}

TEST_CASE("empty tensors pass") {
  const Tensor empty = Tensor::empty(DType::kFloat32, {2, 0});
  const OutputParity result = check(empty, empty);
  CHECK(result);
  CHECK(result.elements == 0);
  CHECK(result.cosine == 1);
  CHECK(result.argmax_agreement == 1);
}

TEST_CASE("views are compared by their elements") {
  std::vector<float> memory{1, 2, 3, 4};
  const Tensor transposed =
      Tensor::wrap(memory.data(), DType::kFloat32, {2, 2}, nullptr, {}, {1, 2});
  CHECK(check(floats({1, 3, 2, 4}, {2, 2}), transposed));
  CHECK_FALSE(check(floats({1, 2, 3, 4}, {2, 2}), transposed));
}

TEST_CASE("a tensor on a device is refused by name") {
  float value = 1;
  const Tensor on_gpu = Tensor::wrap(&value, DType::kFloat32, {1}, nullptr, {DeviceType::kCuda, 0});
  CHECK_THROWS_WITH_AS(check(floats({1}), on_gpu), doctest::Contains("transfer"), InvalidInput);
}

TEST_CASE("worse prefers failures, then strain, then the error") {
  const auto make = [](bool passed, double passing, double max_abs) {
    OutputParity parity;
    parity.passed = passed;
    parity.atol = 1;
    parity.passing_atol = passing;
    parity.max_abs = max_abs;
    return parity;
  };
  const OutputParity failed = make(false, 0.1, 0);
  const OutputParity strained = make(true, 0.9, 0);
  const OutputParity relaxed = make(true, 0.1, 5);
  const OutputParity smaller = make(true, 0.1, 4);
  CHECK(&worse(strained, failed) == &failed);
  CHECK(&worse(failed, strained) == &failed);
  CHECK(&worse(relaxed, strained) == &strained);
  CHECK(&worse(smaller, relaxed) == &relaxed);
  OutputParity no_tolerance;
  no_tolerance.passing_atol = 1e-9;
  CHECK(no_tolerance.strain() == kInf);
}

namespace {

// Values of many sizes, and eager's error to the truth: a few units in the last place.
struct Probe {
  Shape shape;
  Tensor golden = Tensor::empty(DType::kFloat32, shape);
  Tensor error = Tensor::empty(DType::kFloat32, shape);

  explicit Probe(Shape of = {40, 64}) : shape(std::move(of)) {
    std::uint32_t state = 1;
    const auto next = [&state] {
      state = state * 1664525 + 1013904223;
      return static_cast<float>(state >> 8) / static_cast<float>(1 << 24) - 0.5F;
    };
    auto* golden_data = static_cast<float*>(golden.data());
    auto* error_data = static_cast<float*>(error.data());
    for (std::int64_t i = 0; i < golden.numel(); ++i) {
      golden_data[i] = 4 * next();
      error_data[i] = 2e-6F * next();
    }
  }

  [[nodiscard]] Tensor shifted(float by, std::int64_t every = 1) const {
    Tensor copy = Tensor::empty(DType::kFloat32, shape);
    const auto* from = static_cast<const float*>(golden.data());
    auto* to = static_cast<float*>(copy.data());
    for (std::int64_t i = 0; i < copy.numel(); ++i) to[i] = from[i] + (i % every == 0 ? by : 0);
    return copy;
  }

  [[nodiscard]] OutputParity judge(const Tensor& actual) const {
    Tolerance tolerance;
    tolerance.limits.multiples = {6.0, 3.0, 3.5, 3.0, 3.0, 9.0};
    return compare("y", golden, actual, tolerance, nullptr, error);
  }
};

}  // namespace

TEST_CASE("where the truth is known, eager's own error is the unit") {
  const Probe probe;
  const OutputParity same = probe.judge(probe.golden);
  CHECK(same);
  CHECK(same.to_truth);
  CHECK(same.noise_units == doctest::Approx(1));
  CHECK(same.errors[Statistic::kRms] == doctest::Approx(same.own[Statistic::kRms]));
  CHECK(same.allowed[Statistic::kRms] == doctest::Approx(3 * same.own[Statistic::kRms]));

  const OutputParity wrong = probe.judge(probe.shifted(5e-6F));
  CHECK_FALSE(wrong);
  CHECK(wrong.strain() > 1);
  CHECK(mentions(wrong.reason, "to float64 is"));
  CHECK(mentions(wrong.reason, "would pass"));
}

TEST_CASE("an error to the truth that does not fit the output is refused") {
  const Probe probe;
  const Tolerance tolerance{.limits = {.multiples = {6.0}}};
  const auto with = [&](const Tensor& error) {
    return compare("y", probe.golden, probe.golden, tolerance, nullptr, error);
  };
  CHECK_THROWS_WITH_AS(with(floats({1})), doctest::Contains("float32[40, 64]"), InvalidInput);
  CHECK_THROWS_WITH_AS(with(Tensor::empty(DType::kComplex64, {40, 64})),
                       doctest::Contains("complex64"), InvalidInput);
  CHECK_THROWS_WITH_AS(with(Tensor::empty(DType::kInt64, {40, 64})), doctest::Contains("int64"),
                       InvalidInput);
  CHECK_THROWS_WITH_AS(with(Tensor::wrap(probe.error.data(), DType::kFloat32, {40, 64}, nullptr,
                                         {DeviceType::kCuda, 0})),
                       doctest::Contains("transfer"), InvalidInput);
}

TEST_CASE("the maximum detects one wrong element, the bias a small shift of all") {
  const Probe probe;
  CHECK(probe.judge(probe.shifted(2e-5F, 2560)).statistic == "max");
  CHECK(probe.judge(probe.shifted(1.2e-6F)).statistic == "bias");
  // The means of a few columns are too few to be judged apart from the error itself.
  const Probe narrow({160, 16});
  CHECK(narrow.judge(narrow.shifted(1.2e-6F)).statistic != "bias");
}

TEST_CASE("a few elements are judged by their largest error alone") {
  const Probe few({15});
  const OutputParity borderline = few.judge(few.shifted(3e-6F));
  CHECK(borderline);
  CHECK(borderline.statistic == "max");
  CHECK(borderline.multiple > 3.5);
  for (const Statistic statistic :
       {Statistic::kRms, Statistic::kP99, Statistic::kMedian, Statistic::kBias, Statistic::kCosine})
    CHECK(borderline.allowed[statistic] == kInf);
  CHECK_FALSE(few.judge(few.shifted(1e-5F)));

  const Probe middle({50});
  CHECK(middle.judge(middle.golden).allowed[Statistic::kP99] == kInf);
  CHECK_FALSE(middle.judge(middle.shifted(3e-6F)));
  const Probe many({100});
  CHECK(many.judge(many.golden).allowed[Statistic::kP99] < kInf);
  CHECK_FALSE(many.judge(many.shifted(3e-6F)));
}

TEST_CASE("a statistic that stands alone judges a few elements too") {
  Tolerance tolerance;
  tolerance.limits.multiples[static_cast<std::size_t>(Statistic::kCosine)] = 1.0;
  tolerance.limits.allowance[Statistic::kCosine] = 0.01;
  const Tensor golden = floats({1, 2, 3});
  const Tensor error = floats({0, 0, 0});
  CHECK(compare("y", golden, floats({1.1F, 2, 3}), tolerance, nullptr, error));
  CHECK_FALSE(compare("y", golden, floats({3, 2, 1}), tolerance, nullptr, error));
}

TEST_CASE("a cosine distance below the precision of float32 is none") {
  // Eager is off by a scale and the engine by rounding of that size, which turns the direction.
  Probe probe;
  const auto* golden = static_cast<const float*>(probe.golden.data());
  auto* error = static_cast<float*>(probe.error.data());
  Tensor actual = Tensor::empty(DType::kFloat32, probe.shape);
  auto* values = static_cast<float*>(actual.data());
  for (std::int64_t i = 0; i < actual.numel(); ++i) {
    error[i] = 1e-6F * golden[i];
    values[i] = golden[i] - error[i] * (i % 3 == 0 ? 2.0F : 0.0F);
  }
  const OutputParity result = probe.judge(actual);
  CHECK(result);
  CHECK(result.errors[Statistic::kCosine] > 9 * result.own[Statistic::kCosine]);
  CHECK(result.allowed[Statistic::kCosine] == doctest::Approx(4.77e-7).epsilon(0.01));
}

TEST_CASE("an excess that rounding may explain has words of its own") {
  const Probe probe;
  CHECK(mentions(probe.judge(probe.shifted(1e-6F)).reason, "slightly above the limit: "));
  CHECK(mentions(probe.judge(probe.shifted(1e-6F)).reason, "(3 x) is allowed"));
  CHECK_FALSE(mentions(probe.judge(probe.shifted(1e-2F)).reason, "slightly"));
  CHECK(mentions(check(floats({1}), floats({1.5F}), 0.4).reason, "slightly above the limit: "));
  CHECK_FALSE(mentions(check(floats({1}), floats({2}), 0.4).reason, "slightly"));
}

TEST_CASE("the tolerance judges where the truth is not finite") {
  const Probe probe;
  Tensor error = Tensor::empty(DType::kFloat32, probe.shape);
  std::fill_n(static_cast<float*>(error.data()), error.numel(), kInfF);
  Tolerance tolerance{.atol = 1e-3, .rtol = 0, .limits = {}};
  tolerance.limits.multiples = {6.0, 3.0, 3.5, 3.0, 3.0, 9.0};
  const OutputParity result =
      compare("y", probe.golden, probe.shifted(1e-4F), tolerance, nullptr, error);
  CHECK(result);
  CHECK_FALSE(result.to_truth);
}

TEST_CASE("a result is true only when something was compared and all of it passed") {
  ParityResult result;
  CHECK_FALSE(result);
  OutputParity good;
  good.passed = true;
  result.goldens.push_back({.golden = "a", .outputs = {good}, .error = ""});
  CHECK(result);
  result.goldens.push_back({.golden = "b", .outputs = {good, OutputParity{}}, .error = ""});
  CHECK_FALSE(result);
  result.goldens.back().outputs.pop_back();
  CHECK(result);
  result.goldens.back().error = "it threw";
  CHECK_FALSE(result);
  result.goldens.pop_back();
  result.error = "no engine";
  CHECK_FALSE(result);
}
