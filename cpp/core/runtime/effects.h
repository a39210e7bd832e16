#pragma once

#include <span>
#include <vector>

#include "isthmus/engine.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

/// What a call does besides answering. Engines write no memory of the caller: they return the
/// values of written inputs after the outputs, and the core copies them into the caller's buffers.
namespace isthmus::detail {

/// Returns the caller's buffers that a method writes, in the order of Signature::writes.
/// @param given  the inputs in the signature's order, as the caller gave them
/// @throws InvalidInput for a buffer that is read-only, overlaps itself, or shares elements with
///     another input.
std::vector<Tensor> written_buffers(const Signature& signature, std::span<const Tensor> given);

/// Moves the values of written inputs out of the results of an engine, which then are the outputs.
/// @param inputs  the inputs that the engine got
/// @throws ExecutionError when the number of results, or the dtype or shape of a value, is wrong.
std::vector<Tensor> take_written(const Signature& signature, std::span<const Tensor> inputs,
                                 std::vector<Tensor>& results);

/// Replaces each output that shares memory with an input or an earlier output by a copy.
void separate_outputs(Executable& executable, std::span<const Tensor> inputs,
                      std::vector<Tensor>& outputs);

/// Copies the values of written inputs into the caller's buffers.
void write_back(Executable& executable, std::span<const Tensor> values,
                std::span<const Tensor> buffers);

}  // namespace isthmus::detail
