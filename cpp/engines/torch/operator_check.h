#pragma once

#include <set>
#include <string>

#include "isthmus/bundle.h"
#include "isthmus/options.h"

namespace isthmus::torch_engine {

/// Returns the namespaces that the artifact may use because the caller opened operator libraries:
/// those that the manifest lists, except LibTorch's own.
std::set<std::string> allowed_namespaces(const Artifact& artifact, const LoadOptions& options);

/// Requires that every operator that the manifest lists is registered in this process.
/// @throws BundleError naming the operators, the library they came from, and both torch versions.
void check_operators(const Artifact& artifact);

}  // namespace isthmus::torch_engine
