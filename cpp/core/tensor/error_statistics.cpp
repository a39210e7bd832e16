#include "core/tensor/error_statistics.h"

#include <cmath>
#include <complex>
#include <type_traits>
#include <vector>

#include "core/tensor/elements.h"

namespace isthmus {
namespace {

// With fewer columns there are too few means to be judged.
constexpr std::int64_t kLeastColumns = 32;

bool finite(double x) {
  return std::isfinite(x);
}
bool finite(std::complex<double> x) {
  return std::isfinite(x.real()) && std::isfinite(x.imag());
}

double square(double x) {
  return x * x;
}
double square(std::complex<double> x) {
  return std::norm(x);
}

double rms_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

// Returns the quantile by nearest rank. Reorders `values`.
double quantile(std::vector<double>& values, double share) {
  const auto rank = static_cast<std::size_t>(
      std::max(1.0, std::ceil(share * static_cast<double>(values.size()))));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Sets all statistics but bias and cosine. Takes `sizes` by value, because the quantiles reorder
// it.
void fill(ErrorStatistics& into, std::vector<double> sizes) {
  into[Statistic::kMax] = *std::max_element(sizes.begin(), sizes.end());
  into[Statistic::kRms] = rms_of(sizes);
  into[Statistic::kP99] = quantile(sizes, 0.99);
  into[Statistic::kMedian] = quantile(sizes, 0.5);
}

int mantissa_bits(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 10;
    case DType::kBFloat16:
      return 7;
    case DType::kFloat64:
    case DType::kComplex128:
      return 52;
    default:
      return 23;
  }
}

int least_exponent(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return -14;
    case DType::kFloat64:
    case DType::kComplex128:
      return -1022;
    default:
      return -126;
  }
}

bool is_complex(DType dtype) {
  return dtype == DType::kComplex64 || dtype == DType::kComplex128;
}

/// Returns the unit in the last place of a number.
double spacing(double size, DType dtype) {
  const int exponent =
      size > 0 ? std::max(std::ilogb(size), least_exponent(dtype)) : least_exponent(dtype);
  return std::ldexp(1.0, exponent - mantissa_bits(dtype));
}

template <typename Value>
struct Gathered {
  std::vector<Value> truth;
  std::vector<Value> actual;  // errors
  std::vector<Value> own;     // errors
  std::vector<std::int64_t> columns;
};

// Returns 1 - cosine of truth and truth + error, computed as half the squared distance of the unit
// vectors, because the direct formula loses everything below 1e-16.
template <typename Value>
double cosine_distance(const std::vector<Value>& truth, const std::vector<Value>& error) {
  double largest = 0;
  for (std::size_t i = 0; i < truth.size(); ++i)
    largest = std::max({largest, std::abs(truth[i]), std::abs(truth[i] + error[i])});
  if (largest == 0) return 0;
  double left = 0;
  double right = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    left += square(truth[i] / largest);
    right += square((truth[i] + error[i]) / largest);
  }
  if (left == 0 || right == 0) return left == right ? 0 : 1;
  left = std::sqrt(left) * largest;
  right = std::sqrt(right) * largest;
  double sum = 0;
  for (std::size_t i = 0; i < truth.size(); ++i)
    sum += square(truth[i] / left - (truth[i] + error[i]) / right);
  return sum / 2;
}

template <typename Value>
double bias(const std::vector<Value>& error, const std::vector<std::int64_t>& columns,
            std::int64_t row_length) {
  std::vector<Value> sums(static_cast<std::size_t>(row_length));
  std::vector<double> counts(sums.size());
  for (std::size_t i = 0; i < error.size(); ++i) {
    const auto column = static_cast<std::size_t>(columns[i]);
    sums[column] += error[i];
    ++counts[column];
  }
  std::vector<double> means;
  for (std::size_t i = 0; i < sums.size(); ++i)
    if (counts[i] > 0) means.push_back(std::abs(sums[i]) / counts[i]);
  return rms_of(means);
}

// Returns the size that independent noise leaves in the mean of the rows, which is the least bias
// to expect. Rows share weights and kernels, so their noise is only partly independent:
// torch.compile of all-MiniLM-L6-v2 leaves 0.35 to 0.6 of eager's rms in the mean of 500 to 1,000
// rows, and 0.87 when all tokens are the same.
double mean_of_noise(double rms, std::size_t elements, std::int64_t row_length) {
  if (row_length < kLeastColumns) return rms;
  constexpr double kMostIndependent = 8;
  const double rows = static_cast<double>(elements) / static_cast<double>(row_length);
  return rms / std::sqrt(std::clamp(rows, 1.0, kMostIndependent));
}

template <typename Value>
ErrorStatistics statistics_of(const Gathered<Value>& from, const std::vector<Value>& error,
                              std::int64_t row_length) {
  ErrorStatistics result;
  std::vector<double> sizes(error.size());
  std::transform(error.begin(), error.end(), sizes.begin(),
                 [](const Value& value) { return std::abs(value); });
  fill(result, std::move(sizes));
  result[Statistic::kBias] =
      row_length < kLeastColumns ? result[Statistic::kRms] : bias(error, from.columns, row_length);
  result[Statistic::kCosine] = cosine_distance(from.truth, error);
  return result;
}

template <typename Value>
ErrorStatistics one_ulp(const Gathered<Value>& from, DType dtype, std::int64_t row_length) {
  std::vector<double> sizes(from.truth.size());
  std::transform(from.truth.begin(), from.truth.end(), sizes.begin(),
                 [](const Value& value) { return std::abs(value); });
  const double size = rms_of(sizes);
  if (static_cast<std::int64_t>(sizes.size()) < kFewElements)
    // A value that is small by cancellation has the rounding error of larger values.
    std::fill(sizes.begin(), sizes.end(), *std::max_element(sizes.begin(), sizes.end()));
  for (double& size_of_value : sizes) size_of_value = spacing(size_of_value, dtype);
  ErrorStatistics result;
  fill(result, std::move(sizes));
  const double rms = result[Statistic::kRms];
  result[Statistic::kBias] = mean_of_noise(rms, from.truth.size(), row_length);
  result[Statistic::kCosine] = size > 0 ? rms * rms / (2 * size * size) : 0;
  return result;
}

template <typename Value>
std::vector<Value> values_of(const Tensor& tensor) {
  std::vector<Value> values(static_cast<std::size_t>(tensor.numel()));
  visit_elements(tensor, [&](const auto& elements) {
    using Element = typename std::decay_t<decltype(elements)>::value_type;
    if constexpr (std::is_convertible_v<Element, Value>)
      for (std::int64_t i = 0; i < elements.size; ++i)
        values[static_cast<std::size_t>(i)] = static_cast<Value>(elements[i]);
  });
  return values;
}

template <typename Value>
std::optional<ErrorsToTruth> measure(const Tensor& reference, const Tensor& actual,
                                     const Tensor& own_error) {
  const std::int64_t row_length = reference.rank() == 0 ? 1 : reference.shape().back();
  const std::vector<Value> expected = values_of<Value>(reference);
  const std::vector<Value> got = values_of<Value>(actual);
  const std::vector<Value> own = values_of<Value>(own_error);
  Gathered<Value> gathered;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!finite(expected[i]) || !finite(got[i])) continue;
    if (!finite(own[i])) return std::nullopt;
    gathered.truth.push_back(expected[i] - own[i]);
    // In this order, the difference of two adjacent numbers is exact.
    gathered.actual.push_back((got[i] - expected[i]) + own[i]);
    gathered.own.push_back(own[i]);
    gathered.columns.push_back(static_cast<std::int64_t>(i) % row_length);
  }
  if (gathered.truth.empty()) return std::nullopt;
  ErrorsToTruth result{statistics_of(gathered, gathered.actual, row_length),
                       statistics_of(gathered, gathered.own, row_length),
                       one_ulp(gathered, reference.dtype(), row_length),
                       static_cast<std::int64_t>(gathered.truth.size())};
  double& own_bias = result.own[Statistic::kBias];
  own_bias = std::max(
      own_bias, mean_of_noise(result.own[Statistic::kRms], gathered.truth.size(), row_length));
  return result;
}

}  // namespace

bool is_error_of(const Tensor& error, const Tensor& output) {
  return error.shape() == output.shape() && is_floating(output.dtype()) &&
         is_floating(error.dtype()) && (is_complex(output.dtype()) || !is_complex(error.dtype()));
}

std::string error_expectation(const Tensor& output) {
  return std::string("floating-point ") + (is_complex(output.dtype()) ? "or complex " : "") +
         "numbers in the shape of " + output.describe();
}

double least_cosine_distance(DType dtype) {
  // Half precision is no excuse: engines and readers compute cosines in float32 at least.
  return std::ldexp(4.0, -std::max(mantissa_bits(dtype), mantissa_bits(DType::kFloat32)));
}

std::optional<ErrorsToTruth> errors_to_truth(const Tensor& reference, const Tensor& actual,
                                             const Tensor& own_error) {
  if (is_complex(reference.dtype()))
    return measure<std::complex<double>>(reference, actual, own_error);
  return measure<double>(reference, actual, own_error);
}

}  // namespace isthmus
