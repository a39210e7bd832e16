#pragma once

#include <string_view>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::detail {

/// Turns the tensors of a golden's file ("STEP/in/NAME", "STEP/out/NAME", "STEP/error/NAME") into
/// calls, with values in the order of the signature.
/// @param label  names the file in errors
/// @throws BundleError when a tensor is missing, unexpected or of the wrong type.
std::vector<GoldenCall> to_calls(const Manifest& manifest, const Golden& golden,
                                 const NamedTensors& tensors, std::string_view label);

}  // namespace isthmus::detail
