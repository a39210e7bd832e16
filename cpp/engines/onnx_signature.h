#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/scan.h"
#include "isthmus/signature.h"

namespace isthmus {

/// Returns the index in the signature of each input of an ONNX graph, in the graph's order. Inputs
/// are bound by name; the graph may lack inputs of the signature that the exporter dropped. Outputs
/// are bound by position; those of written inputs follow the others.
/// @throws BundleError when the signature lacks an input of the graph, or the numbers of outputs
/// differ.
inline std::vector<std::size_t> bind_signature(const Signature& signature, const OnnxScan& graph,
                                               const std::string& file) {
  const auto mismatch = [&](const std::string& what) {
    return BundleError("\"" + file + "\" does not fit the method \"" + signature.method +
                       "\": " + what + "; export the bundle again");
  };
  std::vector<std::size_t> inputs;
  for (const std::string& name : graph.inputs) {
    std::size_t index = 0;
    while (index < signature.inputs.size() && signature.inputs[index].name != name) ++index;
    if (index == signature.inputs.size())
      throw mismatch("the graph takes \"" + name + "\", which the manifest does not list");
    inputs.push_back(index);
  }
  const std::size_t results = signature.outputs.size() + signature.writes.size();
  if (graph.outputs.size() != results)
    throw mismatch("the graph gives " + std::to_string(graph.outputs.size()) +
                   " outputs, the manifest lists " + std::to_string(results));
  return inputs;
}

/// Requires that an input of a call is present, as ONNX graphs need.
/// @throws ExecutionError.
inline void require_present(const Tensor& input, const std::string& method,
                            const std::string& name) {
  if (!input.defined())
    throw ExecutionError("\"" + method + "\" needs the input \"" + name +
                         "\": an ONNX graph has no absent inputs; pass it, or use another "
                         "artifact of the bundle");
}

/// Returns the versions that the artifact was made with: "onnx_opset 20, torch 2.13.0".
inline std::string versions_of(const Artifact& artifact) {
  std::string text;
  for (const auto& [name, version] : artifact.requires_versions)
    text += (text.empty() ? "" : ", ") + name + " " + version;
  return text;
}

/// Scans a method's file, which may refer to the artifact's data files.
/// @throws BundleError when the scan refuses it.
inline OnnxScan scan_artifact(const ArtifactSource& source, const FileBytes& file) {
  std::set<std::string> domains;
  for (const OpLibrary& library : source.artifact.op_libraries)
    domains.insert(library.op_namespace);
  OnnxScan scan = scan_onnx(file.bytes(), source.data_names(), domains);
  if (scan.refused()) throw BundleError("\"" + file.path + "\" is refused: " + scan.describe());
  return scan;
}

/// Requires an artifact without state and with a file for each method, as ONNX graphs need.
/// @throws BundleError.
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
