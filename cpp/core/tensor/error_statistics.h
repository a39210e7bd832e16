#pragma once

#include <cstdint>
#include <optional>

#include "isthmus/error_statistics.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// The errors of one output and of eager's own, to the same truth.
struct ErrorsToTruth {
  ErrorStatistics actual;  ///< of the output
  ErrorStatistics own;     ///< of eager, in the golden's precision
  ErrorStatistics ulp;     ///< what one unit in the last place of each value would be
};

/// Measures both. The truth is `reference - own_error`. Elements that are not finite in the
/// reference or in `actual` are left out; nothing when the truth is not finite where both are, or
/// there is no finite element.
/// @param reference,actual  contiguous CPU tensors of the same floating or complex dtype and shape
/// @param own_error  reference minus truth, real or complex as they are, of any float width
std::optional<ErrorsToTruth> errors_to_truth(const Tensor& reference, const Tensor& actual,
                                             const Tensor& own_error);

/// Outputs of fewer elements say too little about their own noise: the bundle's largest counts too.
inline constexpr std::int64_t kFewElements = 256;

}  // namespace isthmus
