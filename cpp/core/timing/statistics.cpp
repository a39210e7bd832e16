#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>

#include "isthmus/error.h"
#include "isthmus/timing.h"

namespace isthmus {
namespace {

void require_samples(std::span<const double> samples, const char* function) {
  if (samples.empty())
    throw InvalidInput(std::string(function) + ": expected at least one sample, got none");
}

// Reorders `values`; partial sorting is all that two order statistics need.
double percentile_in_place(std::vector<double>& values, double p) {
  const double rank = p * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), below, values.end());
  const double fraction = rank - std::floor(rank);
  if (fraction == 0) return *below;
  const double above = *std::min_element(below + 1, values.end());
  return above == *below ? above : *below + fraction * (above - *below);  // both may be infinite
}

double median_of_resample(std::span<const double> samples, std::mt19937_64& random,
                          std::vector<double>& buffer) {
  // Lemire's multiply-shift instead of uniform_int_distribution, whose draws differ between
  // standard libraries: a seeded interval must be the same everywhere.
  const auto size = static_cast<std::uint64_t>(samples.size());
  buffer.resize(samples.size());
  for (double& value : buffer) value = samples[((random() >> 32) * size) >> 32];
  return percentile_in_place(buffer, 0.5);
}

}  // namespace

double percentile(std::span<const double> samples, double p) {
  require_samples(samples, "percentile");
  if (!(p >= 0 && p <= 1))
    throw InvalidInput("percentile: expected p in [0, 1], got " + std::to_string(p));
  std::vector<double> values(samples.begin(), samples.end());
  return percentile_in_place(values, p);
}

TimingResult summarize(std::vector<double> samples_ms) {
  require_samples(samples_ms, "summarize");
  TimingResult result;
  const auto count = static_cast<int>(samples_ms.size());
  result.median_ms = percentile(samples_ms, 0.5);
  result.mean_ms = std::accumulate(samples_ms.begin(), samples_ms.end(), 0.0) / count;
  result.min_ms = *std::min_element(samples_ms.begin(), samples_ms.end());
  if (count >= kMinSamplesP90) result.p90_ms = percentile(samples_ms, 0.9);
  if (count >= kMinSamplesP99) result.p99_ms = percentile(samples_ms, 0.99);
  result.samples_ms = std::move(samples_ms);
  return result;
}

RatioInterval ratio_of_medians(std::span<const double> a, std::span<const double> b,
                               double confidence, int resamples) {
  require_samples(a, "ratio_of_medians");
  require_samples(b, "ratio_of_medians");
  if (!(confidence > 0 && confidence < 1) || resamples < 1)
    throw InvalidInput("ratio_of_medians: expected 0 < confidence < 1 and resamples >= 1, got " +
                       std::to_string(confidence) + " and " + std::to_string(resamples));
  std::mt19937_64 random(20260131);
  std::vector<double> buffer;
  std::vector<double> ratios;
  ratios.reserve(static_cast<std::size_t>(resamples));
  for (int i = 0; i < resamples; ++i) {
    const double top = median_of_resample(a, random, buffer);
    const double bottom = median_of_resample(b, random, buffer);
    ratios.push_back(bottom == 0 && top == 0 ? 1 : top / bottom);
  }
  const double top = percentile(a, 0.5);
  const double bottom = percentile(b, 0.5);
  const double tail = (1 - confidence) / 2;
  return {.ratio = bottom == 0 && top == 0 ? 1 : top / bottom,
          .low = percentile(ratios, tail),
          .high = percentile(ratios, 1 - tail)};
}

}  // namespace isthmus
