#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/bundle/signature_check.h"
#include "isthmus/engine.h"
#include "isthmus/options.h"

/// One call: its inputs are checked, the engine runs, and its outputs are checked.
namespace isthmus::detail {

/// Runs a method on inputs in the signature's order. Non-contiguous inputs are replaced by copies,
/// except in a call that writes inputs: a copy would not be what the next call needs.
/// @param method  index into Manifest::methods; `check` is that of the method
/// @returns as many outputs as the signature has, which share no memory with the inputs or each
///     other
/// @throws InvalidInput, ExecutionError, as Model::run.
std::vector<Tensor> call_in_order(Executable& executable, const SignatureCheck& check,
                                  std::size_t method, std::span<Tensor> inputs, Device device,
                                  const RunOptions& options);

/// The same with names.
Outputs call_named(Executable& executable, const SignatureCheck& check, std::size_t method,
                   const Inputs& inputs, Device device, const RunOptions& options);

}  // namespace isthmus::detail
