#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files/file_io.h"

namespace isthmus::detail {

/// A record of a zip archive. The central directory and the local header agree on all members.
struct ZipEntry {
  std::string name;
  std::uint16_t method = 0;  ///< 0: stored, 8: deflated
  std::uint32_t crc = 0;
  std::uint64_t stored_size = 0;  ///< bytes in the archive
  std::uint64_t size = 0;         ///< bytes when unpacked
  std::uint64_t offset = 0;       ///< position of the data in the archive
};

/// A defect of an archive. `where` names the record, and is empty for the archive as a whole.
struct ZipFault {
  std::string what;
  std::string where;
};

struct ZipRules {
  bool allow_deflate = false;
  std::size_t max_entries = 1 << 20;
};

struct ZipIndex {
  std::vector<ZipEntry> entries;  ///< in the order of the central directory
  std::vector<ZipFault> faults;   ///< when it is empty, `entries` lists all records there are
};

/// Reads the directory of a zip archive strictly: every reader of an archive without faults sees
/// the same records. Each byte belongs to one record, header or directory; local headers agree with
/// the directory; names are relative, printable, and distinct even when case is ignored. The data
/// are not read, see `crc_matches`.
ZipIndex read_zip_index(std::span<const std::byte> archive, const ZipRules& rules = {});

/// Returns the names of the records in an archive's directory without checking anything else, to
/// identify files that are damaged, or that `read_zip_index` refuses. Empty when there is no
/// directory. @throws IoError.
std::vector<std::string> list_zip_names(const Descriptor& file, std::uint64_t file_size);

/// Returns the bytes of a record in the archive; deflated ones are not unpacked.
std::span<const std::byte> stored_bytes(std::span<const std::byte> archive, const ZipEntry& entry);

/// Returns true when the unpacked bytes of a record have its checksum.
bool crc_matches(std::span<const std::byte> unpacked, const ZipEntry& entry);

/// Unpacks a stored or deflated record, and checks its size and checksum.
/// @throws IoError.
std::vector<std::byte> unpack(std::span<const std::byte> archive, const ZipEntry& entry);

}  // namespace isthmus::detail
