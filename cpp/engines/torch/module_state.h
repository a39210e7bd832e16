#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <vector>

namespace isthmus::torch_engine {

/// Returns a module with its own state. It shares the code and the parameters with the original;
/// buffers and other attributes are copied, and so is every parameter that `state` lists (by dotted
/// path).
torch::jit::Module fork_module(const torch::jit::Module& module,
                               const std::vector<std::string>& state);

}  // namespace isthmus::torch_engine
