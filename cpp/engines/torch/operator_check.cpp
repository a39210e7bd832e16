#include "engines/torch/operator_check.h"

#include <ATen/core/interned_strings.h>
#include <torch/csrc/jit/frontend/builtin_functions.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

/// Returns the namespaces that come with LibTorch. A manifest cannot allow them as namespaces of a
/// library: some of their operators access the network, other processes or files.
const std::set<std::string>& own_namespaces() {
  static const std::set<std::string> kOwn{"aten",
                                          "prim",
                                          "prims",
                                          "quantized",
                                          "_quantized",
                                          "quantization",
                                          "symm_mem",
                                          "static_runtime",
                                          "c10d",
                                          "_c10d_functional",
                                          "_c10d_functional_autograd",
                                          "onednn",
                                          "mkldnn",
                                          "mkldnn_prepacked",
                                          "mkl",
                                          "profiler",
                                          "sparse",
                                          "inductor",
                                          "inductor_prims",
                                          "_test",
                                          "onnx",
                                          "debugprims",
                                          "_dtensor",
                                          "rngprims",
                                          "_native",
                                          "export",
                                          "debug_mode_ops",
                                          "rpc",
                                          "prepacked",
                                          "cuda",
                                          "cudnn",
                                          "metal",
                                          "vulkan",
                                          "fb",
                                          "internal",
                                          "streams",
                                          "higher_order",
                                          "dist",
                                          "torchbind"};
  return kOwn;
}

std::string namespace_of(const std::string& op) {
  return op.substr(0, op.find("::"));
}

bool registered(const std::string& op) {
  const auto symbol = c10::Symbol::fromQualString(op);
  return !torch::jit::getAllOperatorsFor(symbol).empty() ||
         !torch::jit::getAllBuiltinFunctionsFor(symbol).empty();
}

/// Returns what to do to get the operators of a namespace.
std::string remedy_for(const Artifact& artifact, const std::string& op_namespace) {
  OpLibrary library{.op_namespace = op_namespace, .library = "lib" + op_namespace + ".so"};
  for (const OpLibrary& listed : artifact.op_libraries)
    if (listed.op_namespace == op_namespace && !listed.library.empty()) library = listed;
  std::string remedy = "open the library that registers " + library.describe() +
                       " with op_libraries={\"" + library.library + "\"} (--op-library " +
                       library.library + ")";
  if (!library.package.empty())
    remedy +=
        "; `pip install " + library.package +
        (library.version.empty() ? ""
                                 : "==" + library.version.substr(0, library.version.find('+'))) +
        "` brings it, and `pip show -f " + library.package + "` lists where it is";
  return remedy;
}

}  // namespace

std::set<std::string> allowed_namespaces(const Artifact& artifact, const LoadOptions& options) {
  std::set<std::string> allowed;
  if (options.op_libraries.empty()) return allowed;
  for (const OpLibrary& library : artifact.op_libraries)
    if (!own_namespaces().contains(library.op_namespace)) allowed.insert(library.op_namespace);
  return allowed;
}

void check_operators(const Artifact& artifact) {
  std::string missing;
  std::string remedy;
  for (const auto& [op, count] : artifact.operators) {
    const std::string op_namespace = namespace_of(op);
    // Some of prim is syntax of the interpreter (prim::If, prim::Loop) and not in the registry.
    if (op_namespace == "prim" || op.find("::") == std::string::npos || registered(op)) continue;
    missing += (missing.empty() ? "" : ", ") + op;
    if (!own_namespaces().contains(op_namespace)) remedy = remedy_for(artifact, op_namespace);
  }
  if (missing.empty()) return;
  const auto exported = artifact.requires_versions.find("torch");
  if (remedy.empty()) remedy = "use a torch at least as new as the one it was exported with";
  throw BundleError("artifact \"" + artifact.name +
                    "\" uses operators that are not here: " + missing + " (exported with torch " +
                    (exported == artifact.requires_versions.end() ? "?" : exported->second) +
                    ", this is " ISTHMUS_TORCH_VERSION "); " + remedy);
}

}  // namespace isthmus::torch_engine
