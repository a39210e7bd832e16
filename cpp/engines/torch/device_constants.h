#pragma once

#include <torch/csrc/jit/api/module.h>

namespace isthmus::torch_engine {

/// Moves the device literals of a traced module to another device: tracing writes the device of the
/// example into the graph wherever Python said `device=x.device`. Changes the graphs of all methods
/// and functions of the module's compilation unit before they first run. Gives the number of
/// literals.
int move_device_constants(torch::jit::Module& module, c10::Device device);

}  // namespace isthmus::torch_engine
