#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <vector>

#include "engines/torch/runtime.h"
#include "isthmus/engine.h"

namespace isthmus::torch_engine {

/// A module ready to run, and what was done to it.
struct LoadedModule {
  torch::jit::Module module;
  std::vector<std::string> notes;
};

/// Scans the archive (unless everything is trusted), opens operator libraries, loads from the
/// verified bytes onto the device, and applies the optimisation asked for.
/// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (options).
LoadedModule load_module(const ArtifactSource& source, const LoadOptions& options);

/// Whether graphs are to run as they are, without LibTorch's passes and profiling, which take
/// longer than a few calls: executor=none, or `few_calls` without another executor.
bool runs_as_it_is(const LoadOptions& options);

/// Whether LibTorch can use the device here. @throws DeviceUnavailable with the reason and a
/// remedy.
void require_device(Device device, const RuntimeContext& context);

}  // namespace isthmus::torch_engine
