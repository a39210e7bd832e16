#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// The number of samples that a percentile needs: MLPerf LoadGen's minimum at 99 % confidence.
inline constexpr int kMinSamplesP90 = 64;
inline constexpr int kMinSamplesP99 = 662;

struct TimingOptions {
  int warmup = 10;         ///< calls that are made first and not counted
  int iterations = 100;    ///< least number of counted calls
  double min_seconds = 0;  ///< least sum of the counted durations, seconds
  /// Runs before each call and is not timed, for example to free a result or to wait for a device.
  std::function<void()> between = {};
};

/// The durations of calls, in milliseconds.
struct TimingResult {
  std::vector<double> samples_ms;  ///< in the order of the calls
  double median_ms = 0;
  double mean_ms = 0;
  double min_ms = 0;
  double p90_ms = -1;  ///< -1 with too few samples
  double p99_ms = -1;  ///< -1 with too few samples
};

/// Times a function with a steady clock. The function must wait for its work, see
/// Model::synchronize. Exceptions of the function are passed on.
/// @throws InvalidInput for options that are out of range.
ISTHMUS_API TimingResult time_calls(const std::function<void()>& call,
                                    const TimingOptions& options = {});

/// Computes the statistics of samples. @throws InvalidInput without a sample.
ISTHMUS_API TimingResult summarize(std::vector<double> samples_ms);

/// Returns a percentile, with linear interpolation between order statistics.
/// @param samples  in any order
/// @param p  from 0 to 1
/// @throws InvalidInput without a sample, or for another p.
ISTHMUS_API double percentile(std::span<const double> samples, double p);

/// The confidence interval of a ratio.
struct RatioInterval {
  double ratio = 1;
  double low = 1;
  double high = 1;
  [[nodiscard]] bool includes_one() const noexcept { return low <= 1 && high >= 1; }
};

/// Returns median(a) / median(b) with its confidence interval by the percentile bootstrap (Efron
/// 1979). The seed is fixed, so that the same samples give the same interval.
/// @throws InvalidInput without samples, or for a confidence outside (0, 1).
ISTHMUS_API RatioInterval ratio_of_medians(std::span<const double> a, std::span<const double> b,
                                           double confidence = 0.95, int resamples = 2000);

}  // namespace isthmus
