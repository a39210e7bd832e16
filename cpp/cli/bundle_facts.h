#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::cli {

/// Bytes of all these files, as the manifest says.
std::uint64_t total_size(const std::vector<FileEntry>& files);
std::uint64_t total_size(const Manifest& manifest);

/// "my_ops (libmy_ops.so)" for each library of operators that the artifact needs.
std::vector<std::string> library_names(const Artifact& artifact);

}  // namespace isthmus::cli
