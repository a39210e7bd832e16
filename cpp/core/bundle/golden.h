#pragma once

#include <string_view>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::detail {

/// Sorts the tensors of a golden's file ("STEP/in/NAME", "STEP/out/NAME", "STEP/error/NAME") into
/// calls, in the order of each method's signature, and checks that nothing is missing or left over.
/// @throws BundleError; `label` names the file.
std::vector<GoldenCall> to_calls(const Manifest& manifest, const Golden& golden,
                                 const NamedTensors& tensors, std::string_view label);

}  // namespace isthmus::detail
