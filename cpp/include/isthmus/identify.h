#pragma once

#include <filesystem>
#include <string>

#include "isthmus/export.h"

namespace isthmus {

/// The kind of a file or folder, and how to get a bundle from it.
struct IdentifiedFile {
  /// "bundle", "torchscript", "torchscript_flatbuffer", "state_dict", "exported_program", "aoti",
  /// "onnx", "safetensors", "npz", "pickle", "huggingface", "manifest", "zipped_bundle", "zip",
  /// "truncated_zip", "executorch", "gguf", "shared_library", "directory", "empty", "missing",
  /// "special", "unreadable" or "unknown".
  std::string kind;
  std::string advice;  ///< one sentence that names the file, its kind and what to do
};

/// Identifies a file by its content: the first bytes, and the record names of a zip archive.
/// Nothing is executed, and of a damaged archive no more is believed than its names. Never throws
/// for what is at `path`: a file that cannot be read has the kind "unreadable".
ISTHMUS_API IdentifiedFile identify_file(const std::filesystem::path& path);

}  // namespace isthmus
