#pragma once

#include <string>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::detail {

/// Returns the names of a method's inputs, for messages.
std::string expected_names(const Signature& signature);

/// @throws InvalidInput for a name that the signature does not have, or that is given twice.
void check_names(const Signature& signature, const Inputs& inputs);

}  // namespace isthmus::detail
