#include "engines/torch/device_constants.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

namespace isthmus::torch_engine {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;

/// Returns true for a constant of type Device, and for aten::device on a constant string, which is
/// the form that a saved archive has.
bool is_device_literal(const Node& node) {
  if (node.kind() == c10::prim::Constant)
    return node.output()->type()->kind() == c10::TypeKind::DeviceObjType &&
           node.hasAttribute(c10::attr::value);
  static const auto kDeviceOp = c10::Symbol::fromQualString("aten::device");
  return node.kind() == kDeviceOp && node.inputs().size() == 1 &&
         node.input()->node()->kind() == c10::prim::Constant;
}

int move_constants(Block& block, Graph& graph, c10::Device device) {
  int moved = 0;
  for (auto it = block.nodes().begin(); it != block.nodes().end();) {
    Node* node = *it++;
    for (Block* inner : node->blocks()) moved += move_constants(*inner, graph, device);
    if (!is_device_literal(*node)) continue;
    const torch::jit::WithInsertPoint at(node);
    torch::jit::Value* value = graph.insertConstant(device);
    node->output()->replaceAllUsesWith(value);
    node->destroy();
    ++moved;
  }
  return moved;
}

}  // namespace

int move_device_constants(torch::jit::Module& module, c10::Device device) {
  int moved = 0;
  for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
    if (!function->isGraphFunction()) continue;
    const auto graph = torch::jit::toGraphFunction(*function).graph();
    moved += move_constants(*graph->block(), *graph, device);
  }
  return moved;
}

}  // namespace isthmus::torch_engine
