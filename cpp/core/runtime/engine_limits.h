#pragma once

#include <string>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::detail {

/// Returns the signatures of the methods with the limits of an engine: the values with which it
/// gave other answers than the model when it was proven.
/// @param origin  when it was proven: "at export"
std::vector<Signature> with_limits(const Manifest& manifest, const EngineProof& proof,
                                   const std::string& origin);

/// Narrows the dimensions of the signatures to the sizes that the artifact serves.
void narrow_sizes(const Manifest& manifest, const Artifact& artifact,
                  std::vector<Signature>& methods);

}  // namespace isthmus::detail
