#pragma once

#include "core/json_reader.h"
#include "isthmus/signature.h"

namespace isthmus {

/// Reads the nesting of arguments or results. @throws BundleError.
Tree read_tree(const JsonReader& reader, int depth = 0);

/// Every leaf must name an input (arguments) or output (results), each at most once.
void check_leaves(const Signature& signature, const JsonReader& reader);

}  // namespace isthmus
