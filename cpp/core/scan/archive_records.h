#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/files/zip.h"

namespace isthmus::detail {

/// Returns the records of an archive of LibTorch with their names without the top folder, in the
/// order of the directory; none when the archive has a fault.
/// @param refuse  receives the kind of each finding, what is wrong, and the record
template <typename Refuse>
std::vector<std::pair<std::string, const ZipEntry*>> records_in_folder(const ZipIndex& index,
                                                                       Refuse refuse) {
  std::vector<std::pair<std::string, const ZipEntry*>> records;
  for (const ZipFault& fault : index.faults)
    refuse("zip", fault.what, fault.where.empty() ? "archive" : fault.where);
  if (!index.faults.empty()) return records;
  // LibTorch uses the first record's folder for all records.
  std::string top;
  for (const ZipEntry& entry : index.entries) {
    const std::size_t slash = entry.name.find('/');
    if (slash == std::string::npos) {
      refuse("zip", "it lies outside the archive's folder", entry.name);
      continue;
    }
    const std::string folder = entry.name.substr(0, slash);
    if (top.empty()) top = folder;
    if (folder != top) refuse("zip", "it lies in a second folder beside " + top, entry.name);
    records.emplace_back(entry.name.substr(slash + 1), &entry);
  }
  return records;
}

}  // namespace isthmus::detail
