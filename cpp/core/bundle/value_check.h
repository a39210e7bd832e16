#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

/// Checks of the values in contiguous CPU tensors.
namespace isthmus::detail {

/// Checks an input against the limits of the engine. @throws InvalidInput.
void check_limit(const ValueSpec& spec, const Tensor& tensor);

/// Checks an input against inclusive bounds. @throws InvalidInput.
/// @param origin  returns the sizes from which the bounds were computed, " (nodes = 7)"; empty for
///     bounds that every call has
void check_values(const ValueSpec& spec, const Tensor& tensor, std::int64_t min, std::int64_t max,
                  const std::function<std::string()>& origin = {});

}  // namespace isthmus::detail
