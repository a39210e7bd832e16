#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "isthmus/export.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// Reads named tensors from a .safetensors or .npz file, which is identified by its content.
/// Returns CPU tensors with memory of their own, in the order of their data in the file. Damaged
/// files cannot cause reads beyond the end, or allocations beyond the size of the file (1032 times
/// the size for a compressed .npz).
/// @throws InvalidInput with the file and its defect.
ISTHMUS_API NamedTensors read_tensors(const std::filesystem::path& path);

/// The same for bytes in memory.
/// @param label  names them in errors
ISTHMUS_API NamedTensors parse_safetensors(std::span<const std::byte> bytes,
                                           std::string_view label);
ISTHMUS_API NamedTensors parse_npz(std::span<const std::byte> bytes, std::string_view label);

/// Writes contiguous CPU tensors as safetensors. The file is replaced atomically, after its data
/// have been written to the disk.
/// @throws InvalidInput for a tensor that safetensors cannot hold (undefined, not contiguous, not
/// on the
///     CPU, complex128, a repeated or reserved name), and when the file cannot be written.
ISTHMUS_API void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors);

}  // namespace isthmus
