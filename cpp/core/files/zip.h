#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace isthmus::detail {

/// A record of a zip archive, as the central directory and the local header both tell it.
struct ZipEntry {
  std::string name;
  std::uint16_t method = 0;  ///< 0 stored, 8 deflated
  std::uint32_t crc = 0;
  std::uint64_t stored_size = 0;  ///< bytes in the archive
  std::uint64_t size = 0;         ///< bytes when unpacked
  std::uint64_t offset = 0;       ///< of the data
};

/// What is wrong with an archive; `where` names the record, or is empty for the archive as a whole.
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
  std::vector<ZipFault> faults;   ///< empty: the entries can be trusted to be all there is

  /// Exact name; nullptr when there is none.
  [[nodiscard]] const ZipEntry* find(std::string_view name) const noexcept;
};

/// Reads the directory of a zip archive, strictly: any two readers of an archive without faults see
/// the same records. Each byte belongs to one record, header or directory; local headers agree with
/// the directory; names are relative, printable, and distinct also when case is ignored. Data are
/// not read: see `crc_matches`.
ZipIndex read_zip_index(std::span<const std::byte> archive, const ZipRules& rules = {});

/// The bytes of a record in the archive (deflated ones as they are).
std::span<const std::byte> stored_bytes(std::span<const std::byte> archive, const ZipEntry& entry);

/// Whether the unpacked bytes of a record have its checksum.
bool crc_matches(std::span<const std::byte> unpacked, const ZipEntry& entry);

/// Unpacks a record, stored or deflated, and checks its size and checksum.
/// @throws IoError.
std::vector<std::byte> unpack(std::span<const std::byte> archive, const ZipEntry& entry);

}  // namespace isthmus::detail
