#pragma once

#include <functional>
#include <string_view>

#include "isthmus/export.h"
#include "isthmus/model.h"
#include "isthmus/parity.h"

namespace isthmus {

/// Runs all goldens of the model's bundle and compares the outputs by the tolerances of the model's
/// artifact. Each golden runs at least twice, because from the second call of a shape on a runtime
/// may use its optimised code, and a bundle of few calls runs until there are four calls. Each run
/// of a golden has a session of its own. An error that an engine throws becomes
/// `GoldenParity::error`.
/// @param progress  called with the name of each golden before its first run, on the calling thread
/// @throws BundleError when the file of a golden is missing or damaged.
ISTHMUS_API ParityResult verify(const Model& model,
                                const std::function<void(std::string_view golden)>& progress = {});

}  // namespace isthmus
