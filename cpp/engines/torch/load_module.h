#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <vector>

#include "engines/torch/runtime.h"
#include "isthmus/engine.h"

namespace isthmus::torch_engine {

/// A module ready to run.
struct LoadedModule {
  torch::jit::Module module;
  std::vector<std::string> notes;  ///< what was changed at load, a sentence each
};

/// Scans the archive (unless trust is native), opens operator libraries, loads the verified bytes
/// onto the device, and applies the optimization of the options.
/// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (options).
LoadedModule load_module(const ArtifactSource& source, const LoadOptions& options);

/// Returns true when graphs are to run without LibTorch's passes and profiling, which take longer
/// than a few calls: with executor=none, or with `few_calls` and no other executor.
bool runs_unoptimized(const LoadOptions& options);

/// Requires that LibTorch can use the device.
/// @throws DeviceUnavailable with the reason and a remedy.
void require_device(Device device, const RuntimeContext& context);

}  // namespace isthmus::torch_engine
