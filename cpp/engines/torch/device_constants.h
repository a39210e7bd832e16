#pragma once

#include <torch/csrc/jit/api/module.h>

namespace isthmus::torch_engine {

/// Replaces the device literals of a traced module by another device. Tracing writes the device of
/// the example into the graph for every `device=x.device` in Python. Changes the graphs of all
/// methods and functions of the module's compilation unit; call it before they first run. Returns
/// the number of literals.
int move_device_constants(torch::jit::Module& module, c10::Device device);

}  // namespace isthmus::torch_engine
