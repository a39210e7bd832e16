#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/scan.h"
#include "isthmus/signature.h"

namespace isthmus {

/// How a signature's inputs are handed to an ONNX graph: by name, those that the graph dropped left
/// out. Outputs are bound by position: output i of the graph is output i of the signature.
struct OnnxBinding {
  std::vector<std::size_t> inputs;  ///< places in the signature, in the graph's order
};

/// @throws BundleError when the graph wants an input that the signature lacks, or gives another
/// number of outputs.
inline OnnxBinding bind_signature(const Signature& signature, const OnnxScan& graph,
                                  const std::string& file) {
  const auto mismatch = [&](const std::string& what) {
    return BundleError("\"" + file + "\" does not fit the method \"" + signature.method +
                       "\": " + what + "; export the bundle again");
  };
  OnnxBinding binding;
  for (const std::string& name : graph.inputs) {
    std::size_t place = 0;
    while (place < signature.inputs.size() && signature.inputs[place].name != name) ++place;
    if (place == signature.inputs.size())
      throw mismatch("the graph takes \"" + name + "\", which the manifest does not list");
    binding.inputs.push_back(place);
  }
  if (graph.outputs.size() != signature.outputs.size())
    throw mismatch("the graph gives " + std::to_string(graph.outputs.size()) +
                   " outputs, the manifest lists " + std::to_string(signature.outputs.size()));
  return binding;
}

/// "onnx_opset 20, torch 2.13.0": what the artifact was made with.
inline std::string versions_of(const Artifact& artifact) {
  std::string text;
  for (const auto& [name, version] : artifact.requires_versions)
    text += (text.empty() ? "" : ", ") + name + " " + version;
  return text;
}

/// Scans a method's file with the artifact's data files allowed. @throws BundleError when refused.
inline OnnxScan scan_artifact(const ArtifactSource& source, const FileBytes& file) {
  std::set<std::string> domains;
  for (const OpLibrary& library : source.artifact.op_libraries)
    domains.insert(library.op_namespace);
  OnnxScan scan = scan_onnx(file.bytes(), source.data_names(), domains);
  if (scan.refused()) throw BundleError("\"" + file.path + "\" is refused: " + scan.describe());
  return scan;
}

/// An ONNX graph has no state and no methods but its own. @throws BundleError.
inline void require_stateless(const ArtifactSource& source) {
  if (source.manifest.stateful)
    throw BundleError("artifact \"" + source.artifact.name +
                      "\" is ONNX, and the model has state, which no ONNX graph keeps; load its "
                      "TorchScript artifact");
  if (source.files.size() < source.manifest.methods.size())
    throw BundleError("artifact \"" + source.artifact.name + "\" has " +
                      std::to_string(source.files.size()) + " files for " +
                      std::to_string(source.manifest.methods.size()) +
                      " methods; export the bundle again");
}

}  // namespace isthmus
