#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "isthmus/error_statistics.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// The errors of one output and of its reference to the same truth.
struct ErrorsToTruth {
  ErrorStatistics actual;     ///< of the output
  ErrorStatistics own;        ///< of the reference
  ErrorStatistics ulp;        ///< of an error of one unit in the last place of each value
  std::int64_t elements = 0;  ///< the finite elements that were measured
};

/// Returns true when `error` can be the error of `output`: the same shape, floating-point, or
/// complex for a complex output.
bool is_error_of(const Tensor& error, const Tensor& output);

/// Returns what `is_error_of` expects, for messages.
std::string error_expectation(const Tensor& output);

/// Measures the errors to the truth, which is `reference - own_error`. Elements that are not finite
/// in the reference or in `actual` are left out. Returns nullopt when the truth is not finite where
/// both are finite, or when there is no finite element.
/// @param reference,actual  contiguous CPU tensors of the same floating or complex dtype and shape
/// @param own_error  contiguous, on the CPU; `is_error_of(own_error, reference)`
std::optional<ErrorsToTruth> errors_to_truth(const Tensor& reference, const Tensor& actual,
                                             const Tensor& own_error);

/// The number of elements that a statistic needs, indexed by Statistic. With fewer, two samples of
/// the same noise differ by more than the allowed multiple too often: the ratio of two RMS values
/// of 32 normal numbers is above 3 once in 10^8 times (of 4 numbers: once in 40 times), and that of
/// two medians needs 100 numbers for the same. Below 100 elements the 99th percentile is the
/// maximum, whose limit is another one.
inline constexpr std::array<std::int64_t, kStatistics> kLeastElements{1, 32, 100, 100, 32, 32};

/// Returns the least cosine distance that counts for outputs of a type: 4 units of the precision in
/// which a cosine similarity near 1 can be told from 1.
double least_cosine_distance(DType dtype);

/// Outputs with fewer elements say too little about their own error, so the bundle's largest counts
/// as well.
inline constexpr std::int64_t kFewElements = 256;

}  // namespace isthmus
