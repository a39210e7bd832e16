#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "isthmus/export.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// Reads named tensors from a .safetensors or .npz file, told by content.
/// @throws InvalidInput naming the file and what is wrong with it. Never reads past the end;
/// never allocates more than the file's own size, or for a compressed .npz than deflate can pack
/// into it. Order: as the data lie in the file.
ISTHMUS_API NamedTensors read_tensors(const std::filesystem::path& path);

/// The same from bytes; `label` names them in errors.
ISTHMUS_API NamedTensors parse_safetensors(std::span<const std::byte> bytes,
                                           std::string_view label);
ISTHMUS_API NamedTensors parse_npz(std::span<const std::byte> bytes, std::string_view label);

/// Writes contiguous CPU tensors as safetensors, to a temporary name that is then renamed.
/// @throws InvalidInput when it cannot be written.
ISTHMUS_API void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors);

}  // namespace isthmus
