#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::detail {

/// A value that an engine's limit refuses.
struct FoundSpecial {
  std::int64_t element = 0;  ///< index in the contiguous tensor
  std::string value;         ///< "NaN", "-inf", "1e-40"
  std::string kind;          ///< "NaN", "infinities", "numbers beyond 256"
};

/// Returns the first value of a contiguous floating-point CPU tensor that a limit refuses. Reads
/// the bits of every element, in vectorised loops without an early exit. Complex numbers and other
/// dtypes have no special values.
std::optional<FoundSpecial> find_special(const Tensor& tensor, const EngineLimit& limit);

}  // namespace isthmus::detail
