#pragma once

#include <optional>
#include <string>

#include "isthmus/bundle.h"

namespace isthmus::torch_engine {

/// Why compiled code of this artifact cannot run on this machine, told from the manifest before
/// anything is opened: another architecture, or instruction sets that the processor lacks
/// (`requires`: "machine", "isa"). nullopt when it can.
std::optional<std::string> machine_refusal(const Artifact& artifact);

}  // namespace isthmus::torch_engine
