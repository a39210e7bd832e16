#include "cli/summary.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <type_traits>

#include "cli/format.h"
#include "core/tensor/elements.h"

namespace isthmus::cli {
namespace {

constexpr std::int64_t kFirstInJson = 8;
constexpr std::size_t kFirstInTable = 4;

struct Summary {
  Json first = Json::array();
  double mean = 0;
  double std = 0;  // population standard deviation
  double min = 0;
  double max = 0;
  std::int64_t nans = 0;
  std::int64_t infs = 0;
};

/// Computes mean and standard deviation of the finite values by Welford's method, in one pass and
/// without the difference of two large sums.
class Moments {
 public:
  void add(double value) {
    ++count_;
    const double before = value - mean_;
    mean_ += before / static_cast<double>(count_);
    squares_ += before * (value - mean_);
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
  }
  void into(Summary& summary) const {
    if (count_ == 0) return;
    summary.mean = mean_;
    summary.std = std::sqrt(squares_ / static_cast<double>(count_));
    summary.min = min_;
    summary.max = max_;
  }

 private:
  std::int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;
  double min_ = std::numeric_limits<double>::infinity();
  double max_ = -std::numeric_limits<double>::infinity();
};

Json to_json(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}
Json to_json(std::int64_t value) {
  return value;
}
Json to_json(std::uint64_t value) {
  return value;
}
Json to_json(std::complex<double> value) {
  return Json::array({to_json(value.real()), to_json(value.imag())});
}

Summary summarise(const Tensor& tensor) {
  return visit_elements(tensor, [&](const auto& elements) {
    using Value = typename std::decay_t<decltype(elements)>::value_type;
    Summary summary;
    Moments moments;
    for (std::int64_t i = 0; i < elements.size; ++i) {
      const Value value = elements[i];
      if (i < kFirstInJson)
        summary.first.push_back(tensor.dtype() == DType::kBool ? Json(value != Value{})
                                                               : to_json(value));
      double size = 0;  // the modulus of a complex number
      if constexpr (std::is_arithmetic_v<Value>)
        size = static_cast<double>(value);
      else
        size = std::abs(value);
      summary.nans += std::isnan(size) ? 1 : 0;
      summary.infs += std::isinf(size) ? 1 : 0;
      if (std::isfinite(size)) moments.add(size);
    }
    moments.into(summary);
    return summary;
  });
}

std::string shape_text(const Tensor& tensor) {
  std::vector<std::string> sizes;
  for (const std::int64_t size : tensor.shape()) sizes.push_back(std::to_string(size));
  return "[" + join(sizes) + "]";
}

std::string first_text(const Json& first, std::int64_t all) {
  std::vector<std::string> words;
  for (const Json& value : first) {
    if (words.size() == kFirstInTable) break;
    words.push_back(value.is_number_float() ? number(value.get<double>(), 5)
                    : value.is_string()     ? value.get<std::string>()
                                            : dump(value));
  }
  return join(words, " ") + (all > static_cast<std::int64_t>(words.size()) ? " ..." : "");
}

}  // namespace

ReportRow summary_row(const std::string& name, const Tensor& tensor) {
  const Summary summary = summarise(tensor);
  const std::string dtype(isthmus::name(tensor.dtype()));
  return {.cells = {{"output", name},
                    {"dtype", dtype},
                    {"shape", shape_text(tensor)},
                    {"first values", first_text(summary.first, tensor.numel())},
                    {"mean", number(summary.mean, 5)},
                    {"std", number(summary.std, 5)},
                    {"min", number(summary.min, 5)},
                    {"max", number(summary.max, 5)},
                    {"NaN/Inf", std::to_string(summary.nans) + "/" + std::to_string(summary.infs)}},
          .json = dump({{"output", name},
                        {"dtype", dtype},
                        {"shape", tensor.shape()},
                        {"first", summary.first},
                        {"mean", summary.mean},
                        {"std", summary.std},
                        {"min", summary.min},
                        {"max", summary.max},
                        {"nans", summary.nans},
                        {"infs", summary.infs}})};
}

}  // namespace isthmus::cli
