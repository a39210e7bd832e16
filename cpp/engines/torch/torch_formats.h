#pragma once

#include <exception>
#include <memory>
#include <string>

#include "engines/torch/runtime.h"
#include "isthmus/engine.h"

namespace isthmus::torch_engine {

/// Loads a TorchScript archive. `concurrency` is the number of calls that may run at once; 0: no
/// bound.
/// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (options).
std::unique_ptr<Executable> load_torchscript(const ArtifactSource& source,
                                             const LoadOptions& options, int concurrency);

/// Loads AOTInductor packages. `concurrency` as above.
/// @throws as above.
std::unique_ptr<Executable> load_aoti(const ArtifactSource& source, const LoadOptions& options,
                                      int concurrency);

/// Loads programs of torch.export. `concurrency` as above.
/// @throws as above.
std::unique_ptr<Executable> load_exported(const ArtifactSource& source, const LoadOptions& options,
                                          int concurrency);

/// Returns the message of an error, its cause first, without LibTorch's C++ frames and with the
/// names that code has in the archive.
std::string model_error(const std::exception& error);

}  // namespace isthmus::torch_engine
