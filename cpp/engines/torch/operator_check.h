#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/options.h"

namespace isthmus::torch_engine {

/// Opens libraries of custom operators, in order; each once a process.
/// @throws EngineUnavailable naming the library and the loader's reason.
void open_op_libraries(const std::vector<std::filesystem::path>& libraries);

/// Namespaces that the artifact may use because the caller opened libraries for it: those that the
/// manifest lists, never LibTorch's own.
std::set<std::string> allowed_namespaces(const Artifact& artifact, const LoadOptions& options);

/// Every operator that the manifest lists must be registered in this process.
/// @throws BundleError naming the operators, the library they came from, and both torch versions.
void check_operators(const Artifact& artifact);

}  // namespace isthmus::torch_engine
