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

/// Returns the number of values that an engine returns for a call: the outputs, and the values of
/// written inputs after it.
inline std::size_t result_count(const Signature& signature) {
  return signature.outputs.size() + signature.writes.size();
}

/// Returns the type of a value that an engine returns, counted as for `result_count`.
inline const ValueSpec& result_spec(const Signature& signature, std::size_t index) {
  const std::size_t outputs = signature.outputs.size();
  return index < outputs ? signature.outputs[index]
                         : signature.inputs[signature.writes[index - outputs]];
}

/// Returns the name of a written input's value after the call, beside the names of outputs.
inline std::string written_name(const std::string& input) {
  return "written/" + input;
}

[[noreturn, gnu::noinline]] inline void refuse_result_count(const Signature& signature,
                                                            std::size_t count,
                                                            std::size_t written) {
  throw ExecutionError(
      in_quotes(signature.method) + " gave " + std::to_string(count) + " outputs, expected " +
      std::to_string(signature.outputs.size()) +
      (written == 0 ? "" : " and the values of " + std::to_string(written) + " written inputs") +
      "; the artifact does not do what its manifest says: export it again");
}

/// @param written  the number of values of written inputs that are expected after the outputs
/// @throws ExecutionError when there is another number of values.
inline void check_count(const Signature& signature, std::size_t count, std::size_t written) {
  if (count != signature.outputs.size() + written) refuse_result_count(signature, count, written);
}

/// @throws ExecutionError when an engine returned another number of values.
inline void check_result_count(const Signature& signature, std::size_t count) {
  check_count(signature, count, signature.writes.size());
}

}  // namespace isthmus::detail
