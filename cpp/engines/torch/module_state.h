#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <vector>

namespace isthmus::torch_engine {

/// A module with state of its own: parameters are shared with the original, buffers and other
/// attributes are copied, and so is every attribute that `state` lists (dotted paths). The code is
/// shared.
torch::jit::Module fork_module(const torch::jit::Module& module,
                               const std::vector<std::string>& state);

}  // namespace isthmus::torch_engine
