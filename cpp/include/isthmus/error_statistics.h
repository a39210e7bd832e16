#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace isthmus {

/// A statistic of the errors of one output. An error is |value - truth|, in the unit of the output.
enum class Statistic : std::uint8_t {
  kMax,     ///< the largest error
  kRms,     ///< root mean square
  kP99,     ///< 99th percentile, nearest rank
  kMedian,  ///< 50th percentile, nearest rank
  /// The part of the error that does not average out: the RMS, over the last axis, of the mean of
  /// the signed error over all other axes. Equal to kRms when the last axis is shorter than 32.
  kBias,
  kCosine,  ///< cosine distance, 1 - cosine similarity, of the flattened values; without unit
};

inline constexpr std::size_t kStatistics = 6;

/// The names in manifests and JSON, indexed by Statistic.
inline constexpr std::array<std::string_view, kStatistics> kStatisticNames{
    "max", "rms", "p99", "median", "bias", "cosine"};

/// A value for each statistic.
struct ErrorStatistics {
  std::array<double, kStatistics> values{};

  double& operator[](Statistic statistic) noexcept {
    return values[static_cast<std::size_t>(statistic)];
  }
  double operator[](Statistic statistic) const noexcept {
    return values[static_cast<std::size_t>(statistic)];
  }
};

/// The allowed error to the truth. A statistic may be `multiples` times the reference's own error,
/// plus `allowance`. A statistic without a multiple is not judged.
struct ErrorLimits {
  std::array<std::optional<double>, kStatistics> multiples{};
  ErrorStatistics allowance{};  ///< for reduced precision
  /// The reference's own error, the largest of all goldens: its lower bound for outputs of fewer
  /// than 256 elements, whose own statistics are uncertain.
  ErrorStatistics own{};

  /// Returns true when at least one statistic is judged.
  [[nodiscard]] bool any() const noexcept {
    return std::any_of(multiples.begin(), multiples.end(),
                       [](const auto& multiple) { return multiple.has_value(); });
  }
};

}  // namespace isthmus
