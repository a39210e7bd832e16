#pragma once

#include <string>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/model.h"
#include "isthmus/tensor.h"

namespace isthmus::cli {

/// The calls that a file of inputs holds, on the CPU. A file with plain names is one call; keys
/// like "0/in/x", as in a golden, are a sequence, in which "0/out/y" is passed over.
struct InputFile {
  std::vector<GoldenCall> calls;  ///< without outputs
  bool sequence = false;
};

/// `methods`: none ("forward"), one for all calls, or one for each.
/// @throws InvalidInput.
InputFile read_calls(const std::string& path, const std::vector<std::string>& methods);

/// Copies to the CPU, contiguous; leaves absent optional outputs out.
Outputs to_cpu(const Model& model, const Outputs& outputs);

}  // namespace isthmus::cli
