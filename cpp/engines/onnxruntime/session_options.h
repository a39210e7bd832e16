#pragma once

#include <string>
#include <vector>

#include "engines/onnxruntime/api_loader.h"
#include "isthmus/device.h"
#include "isthmus/options.h"

namespace isthmus::onnxruntime_engine {

/// The options of a session, and notes for the caller.
struct SessionSetup {
  Ort::SessionOptions options;
  std::string provider;            ///< "cpu", "cuda", "tensorrt", "openvino"
  std::vector<std::string> notes;  ///< a sentence each
};

/// Translates LoadOptions to the options of a session: threads, graph optimization, execution
/// provider, config entries. Engine options: `library`; `provider` (cpu, cuda, tensorrt, openvino;
/// default: by the device) and `provider.KEY=VALUE` for the provider's options;
/// `graph_optimization` (none, basic, extended, all); `inter_op_threads`; `execution_mode`
/// (sequential, parallel); `memory_arena` (on, off); `config.KEY=VALUE` for any session config
/// entry of ONNX Runtime. The option `max_concurrency` is accepted, and handled by the engine.
/// @throws InvalidInput for bad options, DeviceUnavailable for a provider that is absent or cannot
/// run.
SessionSetup session_setup(const LoadOptions& options, Device device, const Library& library);

/// Returns the execution providers of the opened library by isthmus's names, "cpu" first.
std::vector<std::string> available_providers();

}  // namespace isthmus::onnxruntime_engine
