#pragma once

#include <ATen/core/ivalue.h>

#include <span>
#include <string_view>

namespace isthmus::torch_engine {

/// An operator of Python on numbers: integers, floats and booleans.
using NumberOperator = c10::IValue (*)(std::span<const c10::IValue> arguments);

/// Returns the operator with a name such as "_operator::floordiv", "math::trunc" or
/// "torch::sym_max"; null for an unknown one. It computes as Python does, and throws
/// ExecutionError for arguments that Python refuses (a division by zero) and for integers that
/// leave 64 bits, which Python's do not.
NumberOperator find_number_operator(std::string_view name);

}  // namespace isthmus::torch_engine
