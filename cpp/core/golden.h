#pragma once

#include <vector>

#include "isthmus/bundle.h"

namespace isthmus {

/// Splits a golden's tensors, keyed "STEP/in/NAME" and "STEP/out/NAME", into its calls.
/// @throws BundleError.
std::vector<GoldenCall> split_golden(const Manifest& manifest, const Golden& golden,
                                     const NamedTensors& tensors);

}  // namespace isthmus
