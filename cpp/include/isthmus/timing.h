#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// An order statistic needs samples: a percentile is only told with enough of them.
inline constexpr int kMinSamplesP90 = 64;   ///< LoadGen's floor for p90 at 99 % confidence
inline constexpr int kMinSamplesP99 = 662;  ///< the same for p99

struct TimingOptions {
  int warmup = 10;         ///< calls thrown away first
  int iterations = 100;    ///< calls counted
  double min_seconds = 0;  ///< go on until this much time has been counted, seconds
  /// When set, runs before each call outside the clock: to free a result, to wait for a device.
  std::function<void()> between = {};
};

/// Durations of single calls, milliseconds, in the order they were made.
struct TimingResult {
  std::vector<double> samples_ms;
  double median_ms = 0;
  double mean_ms = 0;
  double min_ms = 0;
  double p90_ms = -1;  ///< -1: too few samples
  double p99_ms = -1;  ///< -1: too few samples
};

/// Times a callable with a steady clock. The callable must be synchronous (see Model::run on CUDA).
ISTHMUS_API TimingResult time_calls(const std::function<void()>& call,
                                    const TimingOptions& options = {});

/// Median, mean, min and, with enough samples, percentiles.
ISTHMUS_API TimingResult summarize(std::vector<double> samples_ms);

/// p in [0, 1], linear interpolation between order statistics; `samples` need not be sorted.
ISTHMUS_API double percentile(std::span<const double> samples, double p);

/// Confidence interval of median(a) / median(b) by the percentile bootstrap (Efron 1979), seeded.
struct RatioInterval {
  double ratio = 1;
  double low = 1;
  double high = 1;
  [[nodiscard]] bool includes_one() const noexcept { return low <= 1 && high >= 1; }
};
ISTHMUS_API RatioInterval ratio_of_medians(std::span<const double> a, std::span<const double> b,
                                           double confidence = 0.95, int resamples = 2000);

}  // namespace isthmus
