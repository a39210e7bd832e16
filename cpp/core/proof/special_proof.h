#pragma once

#include "isthmus/bundle.h"
#include "isthmus/model.h"

namespace isthmus::detail {

/// Adds to the verdict of an engine that passed the values on which it differs from the model:
/// those that the bundle's goldens of special values show, and those that the export found with
/// another version of the runtime.
void add_limits(const Model& model, EngineProof& proof);

}  // namespace isthmus::detail
