#pragma once

#include <string_view>

namespace isthmus::detail {

/// Whether a TorchScript archive may call this operator ("aten::add") without being trusted.
bool is_pure_operator(std::string_view name);

/// Why an operator that LibTorch registers is refused; empty for a pure or unknown one.
std::string_view effect_of_operator(std::string_view name);

/// Whether LibTorch itself registers operators in this namespace.
bool is_torch_namespace(std::string_view name);

/// Whether an operator draws random numbers, so that two runs may differ.
bool is_random_operator(std::string_view name);

}  // namespace isthmus::detail
