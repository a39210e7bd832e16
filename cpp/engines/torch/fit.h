#pragma once

#include <optional>
#include <string>

#include "isthmus/bundle.h"

namespace isthmus::torch_engine {

/// Returns why the compiled code of an artifact cannot run on this machine: it has another
/// architecture, or lacks an instruction set (`requires` of the manifest: "machine", "isa").
/// Returns nullopt when the code can run. Opens nothing.
std::optional<std::string> machine_refusal(const Artifact& artifact);

}  // namespace isthmus::torch_engine
