#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/error_statistics.h"
#include "isthmus/export.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// The comparison of one output with its reference. All numbers are computed in float64, and the
/// difference of two complex numbers is the modulus. NaN equals NaN, and an infinity equals itself,
/// at the same place only.
///
/// Where the reference's own error to float64 is known, the output is judged by its error to
/// float64
/// (`to_truth`): each statistic may be a stated multiple of the same statistic of the reference's
/// error, plus an allowance. That error counts as one unit in the last place at least. Otherwise
/// |actual - reference| <= atol + rtol * |reference| must hold for each element.
struct OutputParity {
  std::string output;  ///< name of the output
  bool passed = false;
  std::string reason;  ///< why it failed, or why there is no number; empty when it passed
  double max_abs = 0;  ///< largest |actual - reference| where both are finite
  double max_rel = 0;  ///< largest |actual - reference| / |reference| where the reference is not 0
  /// The error in units of the reference's own: the ratio of the RMS errors to float64 where they
  /// are known, else max_abs divided by the noise floor's max_abs; 0 without a noise floor.
  double noise_units = 0;
  double cosine = 1;                ///< cosine similarity of the flattened finite values
  std::int64_t nan_mismatches = 0;  ///< elements that are NaN on one side only
  std::int64_t inf_mismatches = 0;  ///< elements that are infinite on one side, or differ in sign
  std::int64_t nans = 0;            ///< NaN elements of the output
  std::int64_t infs = 0;            ///< infinite elements of the output
  double argmax_agreement = 1;      ///< share of rows (last axis) with the same argmax
  /// Share of rows whose five largest elements (all elements of shorter rows) are the reference's.
  /// Elements within twice the allowed largest error of each other count as equal.
  double topk_agreement = 1;
  double passing_atol = 0;  ///< smallest atol that would pass with this rtol; infinite: none would
  double atol = 0;          ///< the tolerance that was applied
  double rtol = 0;
  std::int64_t elements = 0;
  bool to_truth = false;     ///< judged by the error to float64; the members below are set
  ErrorStatistics errors{};  ///< the output's error to float64
  ErrorStatistics own{};  ///< the reference's error to float64, one unit in the last place or more
  ErrorStatistics allowed{};  ///< infinite for a statistic that is not judged
  std::string statistic{};    ///< name of the statistic that is nearest to its limit
  double multiple = 0;        ///< that statistic's error divided by the reference's own
  explicit operator bool() const noexcept { return passed; }

  /// Returns the error as a share of what is allowed; more than 1 fails. Infinite when there is an
  /// error and none is allowed.
  [[nodiscard]] ISTHMUS_API double strain() const noexcept;
};

/// The outputs of one golden.
struct GoldenParity {
  std::string golden;                 ///< name of the golden
  std::vector<OutputParity> outputs;  ///< the worst result of each output, over all calls and runs
  std::string error;                  ///< what the engine threw; empty when it did not
  [[nodiscard]] ISTHMUS_API bool passed() const noexcept;
};

/// The results of one artifact on one engine and device. Converts to true when everything passed.
struct ParityResult {
  std::string engine;
  std::string runtime;
  std::string device;
  std::string artifact;
  std::vector<GoldenParity> goldens;
  std::string error;  ///< not empty when nothing was compared: why
  /// Returns true when there is a golden and all have passed.
  [[nodiscard]] ISTHMUS_API bool passed() const noexcept;
  /// Returns what failed first, and how many goldens failed; empty when all passed.
  [[nodiscard]] ISTHMUS_API std::string failure() const;
  explicit operator bool() const noexcept { return passed(); }
};

/// Compares one output. Integers and booleans must be equal; floating-point and complex numbers
/// must be within the tolerance. Another dtype or shape, or a tensor on one side only, fails with
/// its reason; two undefined tensors pass.
/// @param output  name of the output, for the result
/// @param reference,actual  on the CPU; any strides
/// @param noise  unit of `OutputParity::noise_units`; may be null
/// @param own_error  the reference's error, reference minus float64, in the reference's shape, on
///     the CPU: floating-point, or complex for a complex reference. Undefined where it is not
///     known; used only when `tolerance` has limits and the reference is floating-point or complex.
/// @throws InvalidInput for a tensor that is not on the CPU, and for an `own_error` that does not
/// fit
///     the reference.
ISTHMUS_API OutputParity compare(std::string_view output, const Tensor& reference,
                                 const Tensor& actual, const Tolerance& tolerance,
                                 const NoiseFloor* noise = nullptr, const Tensor& own_error = {});

/// Returns the result that is nearer to failing. A failed one comes first, then the larger strain,
/// then the larger `max_abs`.
ISTHMUS_API const OutputParity& worse(const OutputParity& a, const OutputParity& b) noexcept;

}  // namespace isthmus
