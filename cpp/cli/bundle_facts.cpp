#include "cli/bundle_facts.h"

namespace isthmus::cli {

std::uint64_t total_size(const std::vector<FileEntry>& files) {
  std::uint64_t total = 0;
  for (const FileEntry& file : files) total += file.size;
  return total;
}

std::uint64_t total_size(const Manifest& manifest) {
  std::uint64_t total = total_size(manifest.files);
  for (const Artifact& artifact : manifest.artifacts) total += total_size(artifact.files);
  for (const Golden& golden : manifest.goldens) total += golden.file.size;
  for (const Golden& golden : manifest.specials) total += golden.file.size;
  return total;
}

std::vector<std::string> library_names(const Artifact& artifact) {
  std::vector<std::string> names;
  for (const OpLibrary& needed : artifact.op_libraries) names.push_back(needed.describe());
  return names;
}

}  // namespace isthmus::cli
