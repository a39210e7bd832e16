#pragma once

#include <filesystem>
#include <span>
#include <vector>

namespace isthmus::detail {

/// Returns the folders in which engines are searched, in order: the caller's, those of the
/// environment variable ISTHMUS_ENGINE_PATH, and the folder of this library.
/// @throws InvalidInput for a folder that the caller names and that does not exist. In the
/// environment variable such folders are passed over, as in PATH.
std::vector<std::filesystem::path> engine_folders(std::span<const std::filesystem::path> first);

}  // namespace isthmus::detail
