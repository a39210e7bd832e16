#pragma once

#include <string_view>

namespace isthmus::detail {

/// Returns true for an operator, such as "aten::add", that an untrusted TorchScript archive may
/// call.
bool is_pure_operator(std::string_view name);

/// Returns why an operator that LibTorch registers is refused; empty for a pure or unknown one.
std::string_view effect_of_operator(std::string_view name);

/// Returns true when LibTorch registers operators in this namespace.
bool is_torch_namespace(std::string_view name);

/// Returns true when an operator draws random numbers, so that two runs may differ.
bool is_random_operator(std::string_view name);

}  // namespace isthmus::detail
