#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::detail {

/// Returns the size of a named dimension in a call; nullopt where no given input has it.
using SizeOf = std::function<std::optional<std::int64_t>(const std::string&)>;

/// Returns the combinations that a method serves, "samples=512, rate=16000; or samples=256,
/// rate=8000"; empty where every combination is.
std::string served_text(const Signature& signature);

/// Checks that the sizes and numbers of a call are together one of the combinations that the method
/// serves. What a call leaves out fits all of them.
/// @throws InvalidInput with what was given and what is served.
void check_served(const Signature& signature, std::span<const Tensor> inputs,
                  const SizeOf& size_of);

}  // namespace isthmus::detail
