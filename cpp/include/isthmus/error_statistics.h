#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace isthmus {

/// What is told of the errors of one output. An error is |value - truth|, in the output's unit.
enum class Statistic : std::uint8_t {
  kMax,     ///< the largest
  kRms,     ///< root mean square
  kP99,     ///< 99th percentile, nearest rank
  kMedian,  ///< 50th percentile, nearest rank
  /// RMS, over the last axis, of the signed error's mean over all other axes: what does not average
  /// out. The RMS where the last axis is shorter than 32, of which too few means would come.
  kBias,
  kCosine,  ///< cosine distance: 1 - cosine similarity of the flattened values; no unit
};

inline constexpr std::size_t kStatistics = 6;

/// By Statistic, as in manifests and JSON.
inline constexpr std::array<std::string_view, kStatistics> kStatisticNames{
    "max", "rms", "p99", "median", "bias", "cosine"};

/// A value of each statistic.
struct ErrorStatistics {
  std::array<double, kStatistics> values{};

  double& operator[](Statistic one) noexcept { return values[static_cast<std::size_t>(one)]; }
  double operator[](Statistic one) const noexcept { return values[static_cast<std::size_t>(one)]; }
};

/// How far from the truth an output may be, by statistic: the multiple of eager's own error, plus
/// an allowance. A statistic without a multiple is not judged.
struct ErrorLimits {
  std::array<std::optional<double>, kStatistics> multiples{};
  ErrorStatistics allowance{};  ///< what reduced precision adds
  /// Eager's own error, the largest of any golden: what it is taken for, at the least, in an output
  /// of fewer than 256 elements, whose own numbers are too few to tell.
  ErrorStatistics own{};

  /// Whether anything is judged to the truth at all.
  [[nodiscard]] bool any() const noexcept {
    return std::any_of(multiples.begin(), multiples.end(),
                       [](const auto& one) { return one.has_value(); });
  }
};

}  // namespace isthmus
