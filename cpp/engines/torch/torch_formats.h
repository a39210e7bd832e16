#pragma once

#include <exception>
#include <memory>
#include <string>

#include "engines/torch/runtime.h"
#include "isthmus/engine.h"

namespace isthmus::torch_engine {

/// A TorchScript archive, loaded. `concurrency`: calls at once, 0 for no bound.
/// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (options).
std::unique_ptr<Executable> load_torchscript(const ArtifactSource& source,
                                             const LoadOptions& options, int concurrency);

/// An AOTInductor package, loaded. `concurrency`: calls at once, 0 for no bound.
/// @throws as above.
std::unique_ptr<Executable> load_aoti(const ArtifactSource& source, const LoadOptions& options,
                                      int concurrency);

/// What went wrong in the model's own code, without LibTorch's C++ frames.
std::string model_error(const std::exception& error);

}  // namespace isthmus::torch_engine
