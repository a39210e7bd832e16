#include "isthmus/parity.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <type_traits>
#include <vector>

#include "core/tensor/elements.h"
#include "core/tensor/error_statistics.h"
#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
struct IsComplex : std::false_type {};
template <typename T>
struct IsComplex<std::complex<T>> : std::true_type {};

// The results of the one pass over both tensors.
struct Tally {
  double max_abs = 0;
  double max_rel = 0;
  double passing_atol = 0;
  double cosine = 1;
  std::int64_t nan_mismatches = 0;
  std::int64_t inf_mismatches = 0;
  std::int64_t nans = 0;
  std::int64_t infs = 0;
  std::int64_t unequal = 0;  // whole numbers that differ
  std::int64_t rows = 0;
  std::int64_t same_argmax = 0;
};

// The dot products of the finite elements, in long double because squares of float64 values may be
// beyond the range of double.
struct Cosine {
  long double ab = 0;
  long double aa = 0;
  long double bb = 0;

  template <typename Value>
  void add(Value a, Value b) {
    if constexpr (IsComplex<Value>::value) {
      add(a.real(), b.real());
      add(a.imag(), b.imag());
    } else {
      const auto x = static_cast<long double>(a);
      const auto y = static_cast<long double>(b);
      ab += x * y;
      aa += x * x;
      bb += y * y;
    }
  }
  [[nodiscard]] double value() const {
    if (aa == 0 || bb == 0) return aa == bb ? 1 : 0;
    const long double cosine = ab / (std::sqrt(aa) * std::sqrt(bb));
    return static_cast<double>(std::clamp(cosine, -1.0L, 1.0L));
  }
};

// The position of the largest element of a row: the first NaN if there is one, else the first
// maximum, as in PyTorch and NumPy.
template <typename Value>
class ArgMax {
 public:
  void add(Value value, std::int64_t position) {
    if constexpr (std::is_floating_point_v<Value>) {
      if (position == 0 || (!std::isnan(largest_) && (std::isnan(value) || value > largest_)))
        set(value, position);
    } else if constexpr (!IsComplex<Value>::value) {  // complex numbers have no order
      if (position == 0 || value > largest_) set(value, position);
    }
  }
  [[nodiscard]] std::int64_t position() const { return position_; }

 private:
  void set(Value value, std::int64_t position) {
    largest_ = value;
    position_ = position;
  }
  Value largest_{};
  std::int64_t position_ = 0;
};

bool is_nan(double x) {
  return std::isnan(x);
}
bool is_nan(std::complex<double> x) {
  return std::isnan(x.real()) || std::isnan(x.imag());
}
bool is_inf(double x) {
  return std::isinf(x);
}
bool is_inf(std::complex<double> x) {
  return std::isinf(x.real()) || std::isinf(x.imag());
}

// Counts elements that are not finite. Returns true when both are finite and can be subtracted.
template <typename Value>
bool both_finite(Value reference, Value actual, Tally& tally) {
  const bool nan_reference = is_nan(reference);
  const bool nan_actual = is_nan(actual);
  const bool inf_reference = !nan_reference && is_inf(reference);
  const bool inf_actual = !nan_actual && is_inf(actual);
  tally.nans += nan_actual ? 1 : 0;
  tally.infs += inf_actual ? 1 : 0;
  if (nan_reference != nan_actual)
    ++tally.nan_mismatches;
  else if (!nan_actual && (inf_reference || inf_actual) && reference != actual)
    ++tally.inf_mismatches;
  return !nan_reference && !nan_actual && !inf_reference && !inf_actual;
}

template <typename Value>
void add_difference(Value reference, Value actual, double rtol, Tally& tally) {
  double error = 0;
  double size = 0;
  if constexpr (std::is_integral_v<Value>) {
    tally.unequal += reference != actual ? 1 : 0;
    error = std::abs(static_cast<double>(actual) - static_cast<double>(reference));
    size = std::abs(static_cast<double>(reference));
  } else {
    error = std::abs(actual - reference);
    size = std::abs(reference);
  }
  tally.max_abs = std::max(tally.max_abs, error);
  if (size > 0) tally.max_rel = std::max(tally.max_rel, error / size);
  tally.passing_atol = std::max(tally.passing_atol, error - rtol * size);
}

template <typename Elements>
Tally tally_of(const Elements& reference, const Elements& actual, std::int64_t row_length,
               double rtol) {
  using Value = typename Elements::value_type;
  Tally tally;
  Cosine cosine;
  for (std::int64_t row = 0; row < reference.size; row += row_length) {
    ArgMax<Value> reference_max;
    ArgMax<Value> actual_max;
    for (std::int64_t column = 0; column < row_length; ++column) {
      const Value expected = reference[row + column];
      const Value got = actual[row + column];
      reference_max.add(expected, column);
      actual_max.add(got, column);
      if constexpr (!std::is_integral_v<Value>)
        if (!both_finite(expected, got, tally)) continue;
      add_difference(expected, got, rtol, tally);
      cosine.add(expected, got);
    }
    ++tally.rows;
    tally.same_argmax += reference_max.position() == actual_max.position() ? 1 : 0;
  }
  tally.cosine = cosine.value();
  return tally;
}

Tally tally_of(const Tensor& reference, const Tensor& actual, double rtol) {
  const std::int64_t row_length = reference.rank() == 0 ? 1 : reference.shape().back();
  if (reference.numel() == 0) return {};
  return visit_elements(reference, [&](const auto& expected) {
    auto got = expected;
    got.data = static_cast<decltype(got.data)>(actual.data());
    return tally_of(expected, got, row_length, rtol);
  });
}

// Returns part / whole; 0 / 0 is 0, and any other part of 0 is infinite.
double share(double part, double whole) {
  if (part == 0) return 0;
  return whole > 0 ? part / whole : kInfinity;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

std::string describe(const Tensor& tensor) {
  return tensor.defined() ? tensor.describe() : "nothing (None)";
}

std::string count_of(std::int64_t part, std::int64_t all) {
  return std::to_string(part) + " of " + std::to_string(all) + " elements ";
}

// Returns the words before the reason of an excess that rounding may explain.
std::string prefix_of(double strain) {
  constexpr double kSlight = 2;
  return strain <= kSlight ? "slightly above the limit: " : "";
}

std::string reason_of(const OutputParity& result, const Tally& tally, bool exact) {
  if (result.nan_mismatches > 0)
    return count_of(result.nan_mismatches, result.elements) + "are NaN on one side only";
  if (result.inf_mismatches > 0)
    return count_of(result.inf_mismatches, result.elements) + "are infinite on one side only";
  if (exact && tally.unequal > 0)
    return count_of(tally.unequal, result.elements) + "differ, and whole numbers must be equal";
  if (!exact && result.passing_atol > result.atol)
    return prefix_of(result.strain()) + "largest difference " + number(result.max_abs) +
           " is beyond atol " + number(result.atol) + " + rtol " + number(result.rtol) +
           " * |reference|; atol " + number(result.passing_atol) + " would pass";
  return "";
}

// Returns the reference's own error, which is the unit of the limits.
ErrorStatistics unit_of(const ErrorsToTruth& errors, const ErrorLimits& limits,
                        std::int64_t elements) {
  ErrorStatistics unit;
  for (std::size_t at = 0; at < kStatistics; ++at) {
    unit.values[at] = std::max(errors.own.values[at], errors.ulp.values[at]);
    if (elements < kFewElements) unit.values[at] = std::max(unit.values[at], limits.own.values[at]);
  }
  return unit;
}

std::string truth_reason(const OutputParity& result, std::size_t at) {
  const std::string name(kStatisticNames[at]);
  const char* what = at == static_cast<std::size_t>(Statistic::kCosine) ? " distance " : " error ";
  return name + what + number(result.errors.values[at]) + " to float64 is " +
         number(result.multiple) + " x eager's own " + number(result.own.values[at]) + ", and " +
         number(result.allowed.values[at]) + " (" +
         number(share(result.allowed.values[at], result.own.values[at])) +
         " x) is allowed; a multiple of " + number(result.multiple) + " would pass";
}

// Returns the allowed value of a statistic; infinite when it is not judged. An output of few
// elements is judged by the maximum alone, which every sample carries.
double allowed_of(std::size_t at, const ErrorsToTruth& errors, const ErrorLimits& limits,
                  const ErrorStatistics& own, DType dtype) {
  constexpr auto kMax = static_cast<std::size_t>(Statistic::kMax);
  const auto& multiple = limits.multiples[at];
  if (!multiple) return kInfinity;
  if (limits.multiples[kMax] && errors.elements < kLeastElements[at]) return kInfinity;
  const double allowed = *multiple * own.values[at] + limits.allowance.values[at];
  return at == static_cast<std::size_t>(Statistic::kCosine)
             ? std::max(allowed, least_cosine_distance(dtype))
             : allowed;
}

// Judges by the statistics of the error to the truth. Returns the reason for a failure.
std::string judge_by_truth(OutputParity& result, const ErrorsToTruth& errors,
                           const ErrorLimits& limits, DType dtype) {
  result.to_truth = true;
  result.errors = errors.actual;
  result.own = unit_of(errors, limits, result.elements);
  const double own_rms = result.own[Statistic::kRms];
  result.noise_units = own_rms > 0 ? result.errors[Statistic::kRms] / own_rms : 0;
  std::size_t nearest = 0;
  double strain = -1;
  for (std::size_t at = 0; at < kStatistics; ++at) {
    result.allowed.values[at] = allowed_of(at, errors, limits, result.own, dtype);
    const double used = share(result.errors.values[at], result.allowed.values[at]);
    if (used <= strain) continue;
    strain = used;
    nearest = at;
  }
  result.statistic = kStatisticNames[nearest];
  result.multiple = share(result.errors.values[nearest], result.own.values[nearest]);
  return strain > 1 ? prefix_of(strain) + truth_reason(result, nearest) : "";
}

// Returns a value that can be sorted, which NaN cannot.
double ordered(double value) {
  return std::isnan(value) ? -kInfinity : value;
}

// Returns the share of rows whose largest elements are the same. Values within `slack` are equal.
template <typename Elements>
double topk_agreement(const Elements& reference, const Elements& actual, std::int64_t row_length,
                      double slack) {
  const std::int64_t k = std::min<std::int64_t>(5, row_length);
  std::vector<std::int64_t> positions(static_cast<std::size_t>(row_length));
  std::vector<double> largest(positions.size());
  std::int64_t rows = 0;
  std::int64_t same = 0;
  for (std::int64_t row = 0; row < reference.size; row += row_length, ++rows) {
    for (std::int64_t at = 0; at < row_length; ++at)
      largest[static_cast<std::size_t>(at)] = ordered(reference[row + at]);
    std::nth_element(largest.begin(), largest.begin() + (k - 1), largest.end(), std::greater<>());
    const double least = largest[static_cast<std::size_t>(k - 1)] - slack;
    std::iota(positions.begin(), positions.end(), 0);
    std::nth_element(positions.begin(), positions.begin() + (k - 1), positions.end(),
                     [&](std::int64_t a, std::int64_t b) {
                       return ordered(actual[row + a]) > ordered(actual[row + b]);
                     });
    same += std::all_of(positions.begin(), positions.begin() + k,
                        [&](std::int64_t at) { return ordered(reference[row + at]) >= least; })
                ? 1
                : 0;
  }
  return static_cast<double>(same) / static_cast<double>(rows);
}

double topk_agreement(const Tensor& reference, const Tensor& actual, double slack) {
  if (reference.rank() == 0 || reference.numel() == 0) return 1;
  return visit_elements(reference, [&](const auto& expected) {
    if constexpr (std::is_same_v<typename std::decay_t<decltype(expected)>::value_type, double>) {
      auto got = expected;
      got.data = static_cast<decltype(got.data)>(actual.data());
      return topk_agreement(expected, got, reference.shape().back(), slack);
    } else {
      return 1.0;
    }
  });
}

void require_cpu(std::string_view output, const Tensor& tensor) {
  if (tensor.defined() && !tensor.device().is_cpu())
    throw InvalidInput("compare() reads CPU memory, but output " + detail::in_quotes(output) +
                       " is " + tensor.describe() +
                       ". Copy it first: model.transfer(tensor, Device{})");
}

void require_error(std::string_view output, const Tensor& error, const Tensor& reference) {
  if (!is_error_of(error, reference))
    throw InvalidInput("own_error of output " + detail::in_quotes(output) + ": expected " +
                       error_expectation(reference) + ", got " + error.describe());
  require_cpu(output, error);
}

}  // namespace

double OutputParity::strain() const noexcept {
  if (to_truth) {
    double most = 0;
    for (std::size_t at = 0; at < kStatistics; ++at)
      most = std::max(most, share(errors.values[at], allowed.values[at]));
    return most;
  }
  if (atol > 0) return passing_atol / atol;
  return passing_atol == 0 ? 0 : kInfinity;
}

bool GoldenParity::passed() const noexcept {
  return error.empty() && std::all_of(outputs.begin(), outputs.end(),
                                      [](const OutputParity& parity) { return parity.passed; });
}

bool ParityResult::passed() const noexcept {
  return error.empty() && !goldens.empty() &&
         std::all_of(goldens.begin(), goldens.end(),
                     [](const GoldenParity& golden) { return golden.passed(); });
}

std::string ParityResult::failure() const {
  if (!error.empty()) return error;
  std::string first;
  std::size_t failed = 0;
  for (const GoldenParity& golden : goldens) {
    if (golden.passed()) continue;
    if (++failed > 1) continue;
    first = "golden " + golden.golden + ": ";
    if (!golden.error.empty()) {
      first += golden.error;
      continue;
    }
    const auto parity =
        std::find_if(golden.outputs.begin(), golden.outputs.end(),
                     [](const OutputParity& candidate) { return !candidate.passed; });
    first += "output " + parity->output + ": " + parity->reason;
  }
  if (failed == 0) return "";
  return std::to_string(failed) + " of " + std::to_string(goldens.size()) + " goldens fail; " +
         first;
}

const OutputParity& worse(const OutputParity& a, const OutputParity& b) noexcept {
  if (a.passed != b.passed) return a.passed ? b : a;
  if (a.strain() != b.strain()) return a.strain() > b.strain() ? a : b;
  return b.max_abs > a.max_abs ? b : a;
}

OutputParity compare(std::string_view output, const Tensor& reference, const Tensor& actual,
                     const Tolerance& tolerance, const NoiseFloor* noise, const Tensor& own_error) {
  require_cpu(output, reference);
  require_cpu(output, actual);
  OutputParity result;
  result.output = output;
  result.atol = tolerance.atol;
  result.rtol = tolerance.rtol;
  if (!reference.defined() && !actual.defined()) {
    result.passed = true;
    return result;
  }
  if (!reference.defined() || !actual.defined() || reference.dtype() != actual.dtype() ||
      reference.shape() != actual.shape()) {
    result.reason = "expected " + describe(reference) + ", got " + describe(actual);
    result.passing_atol = kInfinity;
    return result;
  }

  const Tally tally = tally_of(reference.contiguous(), actual.contiguous(), tolerance.rtol);
  result.elements = reference.numel();
  result.max_abs = tally.max_abs;
  result.max_rel = tally.max_rel;
  if (noise != nullptr && noise->max_abs > 0) result.noise_units = tally.max_abs / noise->max_abs;
  result.cosine = tally.cosine;
  result.nan_mismatches = tally.nan_mismatches;
  result.inf_mismatches = tally.inf_mismatches;
  result.nans = tally.nans;
  result.infs = tally.infs;
  if (tally.rows > 0)
    result.argmax_agreement =
        static_cast<double>(tally.same_argmax) / static_cast<double>(tally.rows);
  const bool finite_agree = tally.nan_mismatches == 0 && tally.inf_mismatches == 0;
  result.passing_atol = finite_agree ? tally.passing_atol : kInfinity;
  const bool exact = !is_floating(reference.dtype());
  const bool by_truth = own_error.defined() && tolerance.limits.any() && !exact;
  if (by_truth) require_error(output, own_error, reference);
  std::optional<ErrorsToTruth> errors;
  if (by_truth && finite_agree)
    errors = errors_to_truth(reference.contiguous(), actual.contiguous(), own_error.contiguous());
  result.reason = errors ? judge_by_truth(result, *errors, tolerance.limits, reference.dtype())
                         : reason_of(result, tally, exact);
  if (!exact && finite_agree) {
    const double most = result.to_truth ? result.allowed[Statistic::kMax] : tolerance.atol;
    result.topk_agreement = topk_agreement(reference.contiguous(), actual.contiguous(), 2 * most);
  }
  result.passed = result.reason.empty();
  return result;
}

}  // namespace isthmus
