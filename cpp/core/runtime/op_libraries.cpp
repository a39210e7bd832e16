#include <algorithm>
#include <cctype>
#include <optional>

#include "core/runtime/engine_folders.h"
#include "isthmus/engine.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;

/// Returns true for a namespace that C++ can have, which is therefore no path.
bool is_identifier(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c == '_' || (c < 0x80 && std::isalnum(c) != 0);
  });
}

std::optional<fs::path> installed(const std::string& op_namespace, const LoadOptions& options) {
  if (const auto known = options.installed_op_libraries.find(op_namespace);
      known != options.installed_op_libraries.end())
    return known->second;
  if (!is_identifier(op_namespace)) return std::nullopt;
  for (const fs::path& folder : detail::engine_folders(options.engine_path)) {
    const fs::path file = folder / "operators" / (op_namespace + ".so");
    if (std::error_code error; fs::is_regular_file(file, error)) return file;
  }
  return std::nullopt;
}

}  // namespace

std::vector<fs::path> op_libraries_of(const Artifact& artifact, const LoadOptions& options) {
  if (!options.op_libraries.empty()) return options.op_libraries;
  std::vector<fs::path> libraries;
  for (const OpLibrary& needed : artifact.op_libraries)
    if (auto file = installed(needed.op_namespace, options)) libraries.push_back(std::move(*file));
  return libraries;
}

}  // namespace isthmus
