#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::cli {

/// Returns the sum of the file sizes in the manifest, in bytes.
std::uint64_t total_size(const std::vector<FileEntry>& files);
std::uint64_t total_size(const Manifest& manifest);

/// Returns a text such as "my_ops (libmy_ops.so)" for each operator library that the artifact
/// needs.
std::vector<std::string> library_names(const Artifact& artifact);

}  // namespace isthmus::cli
