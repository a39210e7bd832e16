#pragma once

#include <string>
#include <vector>

#include "engines/onnxruntime/api_loader.h"
#include "isthmus/device.h"
#include "isthmus/options.h"

namespace isthmus::onnxruntime_engine {

/// Options of a session, and what was done that the caller should know.
struct SessionSetup {
  Ort::SessionOptions options;
  std::string provider;            ///< "cpu", "cuda", "tensorrt", "openvino"
  std::vector<std::string> notes;  ///< a sentence each
};

/// Translates LoadOptions: threads, graph optimisation, execution provider, config entries.
/// Engine options: `library`; `provider` (cpu, cuda, tensorrt, openvino; the device's own when left
/// out) and `provider.KEY=VALUE` for its own options; `graph_optimization` (none, basic, extended,
/// all); `inter_op_threads`; `execution_mode` (sequential, parallel); `memory_arena` (on, off);
/// `config.KEY=VALUE` for any session config entry of ONNX Runtime. (`max_concurrency` is the
/// engine's, not the session's.)
/// @throws InvalidInput (options), DeviceUnavailable (a provider that is not there or cannot run).
SessionSetup session_setup(const LoadOptions& options, Device device, const Library& library);

/// Execution providers of the opened library by isthmus's names, "cpu" first.
std::vector<std::string> available_providers();

}  // namespace isthmus::onnxruntime_engine
