#pragma once

#include <string>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/model.h"
#include "isthmus/tensor.h"

namespace isthmus::cli {

/// The calls in a file of inputs, on the CPU. A file with plain names holds one call. Keys such as
/// "0/in/x", as in a golden, form a sequence; keys such as "0/out/y" are ignored.
struct InputFile {
  std::vector<GoldenCall> calls;  ///< without outputs
  bool sequence = false;
};

/// Reads a .safetensors or .npz file. `methods` is empty (all calls are "forward"), or has one name
/// for all calls or one for each.
/// @throws InvalidInput for a file that cannot be read or mixes both kinds of names.
InputFile read_calls(const std::string& path, const std::vector<std::string>& methods);

/// Copies the inputs of a call to the model's device. Those that the call writes are copied on the
/// CPU too, so that every call gets the same values, and no two threads write the same memory.
Inputs own_inputs(const Model& model, const Inputs& inputs, const std::string& method);

/// Copies the outputs to the CPU, contiguous. Leaves out absent optional outputs.
Outputs to_cpu(const Model& model, const Outputs& outputs);

}  // namespace isthmus::cli
