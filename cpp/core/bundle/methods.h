#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/text.h"
#include "isthmus/bundle.h"
#include "isthmus/error.h"

namespace isthmus::detail {

/// Returns the index of a method in `Manifest::methods`.
/// @param owner  "the model", for the message
/// @throws InvalidInput that lists the methods.
inline std::size_t method_index(const Manifest& manifest, std::string_view method,
                                const std::string& owner) {
  for (std::size_t i = 0; i < manifest.methods.size(); ++i)
    if (manifest.methods[i].method == method) return i;
  throw InvalidInput(owner + " has no method " + in_quotes(method) +
                     "; it has: " + joined(manifest.methods, &Signature::method));
}

/// @throws ExecutionError when an engine returned another number of outputs than the signature has.
inline void check_output_count(const Signature& signature, std::size_t count) {
  if (count != signature.outputs.size())
    throw ExecutionError(in_quotes(signature.method) + " gave " + std::to_string(count) +
                         " outputs, expected " + std::to_string(signature.outputs.size()) +
                         "; the artifact does not do what its manifest says: export it again");
}

}  // namespace isthmus::detail
