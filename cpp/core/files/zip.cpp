#include "core/files/zip.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "core/files/little_endian.h"
#include "core/text.h"

namespace isthmus::detail {
namespace {

constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kLocator64Signature = 0x07064b50;
constexpr std::uint32_t kDescriptorSignature = 0x08074b50;
constexpr std::size_t kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr std::size_t kLocalSize = 30, kCentralSize = 46;
constexpr std::uint32_t kFull32 = 0xffffffff;
constexpr std::uint16_t kFull16 = 0xffff;

using Bytes = std::span<const std::byte>;

struct Directory {
  std::uint64_t count = 0, size = 0, offset = 0;
};

/// Thrown and caught in this file: a fault after which the archive cannot be read further.
struct Unreadable {
  ZipFault fault;
};
[[noreturn]] void unreadable(std::string what, std::string where = "") {
  throw Unreadable{{std::move(what), std::move(where)}};
}

/// Reads the 32-bit fields of an end record.
Directory read_end(Bytes bytes, std::size_t at) {
  return {load_le<std::uint16_t>(bytes, at + 10), load_le<std::uint32_t>(bytes, at + 12),
          load_le<std::uint32_t>(bytes, at + 16)};
}

// The end record must be the last 22 bytes. With a comment, or bytes after it, another reader could
// find another end record.
Directory find_directory(Bytes archive) {
  if (archive.size() < kEndSize) unreadable("it is too short to be a zip archive");
  const std::size_t end = archive.size() - kEndSize;
  if (load_le<std::uint32_t>(archive, end) != kEndSignature) {
    unreadable(
        "the zip end record is not at the very end: the file is truncated, or carries a comment or "
        "further bytes");
  }
  if (load_le<std::uint16_t>(archive, end + 20) != 0) unreadable("the zip archive has a comment");
  Directory directory = read_end(archive, end);
  const auto here = load_le<std::uint16_t>(archive, end + 8);
  if (load_le<std::uint32_t>(archive, end + 4) != 0 || here != directory.count) {
    unreadable("the zip archive claims to span several disks");
  }
  std::size_t directory_end = end;
  if (end >= kLocatorSize + kEnd64Size &&
      load_le<std::uint32_t>(archive, end - kLocatorSize) == kLocator64Signature) {
    const std::size_t end64 = end - kLocatorSize - kEnd64Size;
    directory_end = end64;
    const Directory wide{load_le<std::uint64_t>(archive, end64 + 32),
                         load_le<std::uint64_t>(archive, end64 + 40),
                         load_le<std::uint64_t>(archive, end64 + 48)};
    const bool agrees = load_le<std::uint32_t>(archive, end64) == kEnd64Signature &&
                        load_le<std::uint64_t>(archive, end64 + 4) == kEnd64Size - 12 &&
                        load_le<std::uint64_t>(archive, end64 + 16) == 0 &&
                        load_le<std::uint64_t>(archive, end64 + 24) == wide.count &&
                        load_le<std::uint32_t>(archive, end - kLocatorSize + 4) == 0 &&
                        load_le<std::uint64_t>(archive, end - kLocatorSize + 8) == end64 &&
                        load_le<std::uint32_t>(archive, end - kLocatorSize + 16) == 1 &&
                        (directory.count == kFull16 || directory.count == wide.count) &&
                        (directory.size == kFull32 || directory.size == wide.size) &&
                        (directory.offset == kFull32 || directory.offset == wide.offset);
    if (!agrees) unreadable("the zip64 end record disagrees with the zip end record");
    directory = wide;
  }
  if (!within(directory.offset, directory.size, directory_end) ||
      directory.offset + directory.size != directory_end) {
    unreadable("the zip directory does not end where the end record begins");
  }
  return directory;
}

// The zip64 extra field has the sizes of 4 GiB or more, in the order of `full`, each only when its
// 32-bit field is full.
void read_zip64(Bytes extra, bool any_extra, std::span<std::uint64_t*> full,
                const std::string& name) {
  bool seen = false;
  std::size_t at = 0;
  while (at < extra.size()) {
    if (!within(at, 4, extra.size())) unreadable("its extra field is damaged", name);
    const auto id = load_le<std::uint16_t>(extra, at);
    const std::size_t length = load_le<std::uint16_t>(extra, at + 2);
    at += 4;
    if (!within(at, length, extra.size())) unreadable("its extra field is damaged", name);
    if (id == 1) {
      if (seen) unreadable("it has two zip64 fields", name);
      seen = true;
      std::size_t field = at;
      for (std::uint64_t* value : full) {
        if (!within(field, 8, at + length)) unreadable("its zip64 field is too short", name);
        *value = load_le<std::uint64_t>(extra, field);
        field += 8;
      }
    } else if (!any_extra) {
      unreadable("its directory entry has an extra field", name);
    }
    at += length;
  }
  if (!seen && !full.empty()) unreadable("its zip64 field is missing", name);
}

std::optional<std::string> name_fault(std::string_view name) {
  if (const auto fault = path_fault(name)) return "its name is bad: " + *fault;
  return std::nullopt;
}

// Bit 3: a data descriptor follows. Bit 11: the name is UTF-8. Bits 1 and 2: the level of
// deflation.
bool good_flags(std::uint16_t flags, std::uint16_t method) {
  return (flags & ~(method == 8 ? 0x80e : 0x808)) == 0;
}

std::string text(Bytes archive, std::size_t offset, std::size_t length) {
  return {reinterpret_cast<const char*>(archive.data()) + offset, length};
}

/// An entry of the central directory.
struct CentralEntry {
  ZipEntry entry;
  std::uint16_t flags = 0;
  std::uint16_t disk = 0;
  std::uint64_t header = 0;  ///< offset of the local header
  std::size_t name_length = 0;
  std::size_t extra_length = 0;
  std::size_t comment_length = 0;

  [[nodiscard]] std::size_t length() const {
    return kCentralSize + name_length + extra_length + comment_length;
  }
};

/// Reads the entry at an offset; nullopt when none begins there or its name ends after `end`.
std::optional<CentralEntry> read_central_entry(Bytes bytes, std::uint64_t at, std::uint64_t end) {
  if (!within(at, kCentralSize, end) || load_le<std::uint32_t>(bytes, at) != kCentralSignature)
    return std::nullopt;
  CentralEntry central;
  central.flags = load_le<std::uint16_t>(bytes, at + 8);
  central.entry.method = load_le<std::uint16_t>(bytes, at + 10);
  central.entry.crc = load_le<std::uint32_t>(bytes, at + 16);
  central.entry.stored_size = load_le<std::uint32_t>(bytes, at + 20);
  central.entry.size = load_le<std::uint32_t>(bytes, at + 24);
  central.name_length = load_le<std::uint16_t>(bytes, at + 28);
  central.extra_length = load_le<std::uint16_t>(bytes, at + 30);
  central.comment_length = load_le<std::uint16_t>(bytes, at + 32);
  central.disk = load_le<std::uint16_t>(bytes, at + 34);
  central.header = load_le<std::uint32_t>(bytes, at + 42);
  if (!within(at + kCentralSize, central.name_length, end)) return std::nullopt;
  central.entry.name = text(bytes, at + kCentralSize, central.name_length);
  return central;
}

std::vector<CentralEntry> read_central(Bytes archive, const Directory& directory,
                                       const ZipRules& rules) {
  if (directory.count > rules.max_entries || directory.count > directory.size / kCentralSize) {
    unreadable("the zip archive claims " + std::to_string(directory.count) + " entries");
  }
  std::vector<CentralEntry> entries;
  entries.reserve(directory.count);
  std::uint64_t at = directory.offset;
  const std::uint64_t end = directory.offset + directory.size;
  for (std::uint64_t i = 0; i < directory.count; ++i) {
    auto central = read_central_entry(archive, at, end);
    if (!central || !within(at, central->length(), end)) {
      unreadable("entry " + std::to_string(i) + " of the zip directory is damaged");
    }
    ZipEntry& entry = central->entry;
    if (central->comment_length != 0) unreadable("its directory entry has a comment", entry.name);
    if (central->disk != 0) unreadable("it claims to lie on another disk", entry.name);
    std::vector<std::uint64_t*> full;
    if (entry.size == kFull32) full.push_back(&entry.size);
    if (entry.stored_size == kFull32) full.push_back(&entry.stored_size);
    if (central->header == kFull32) full.push_back(&central->header);
    read_zip64(archive.subspan(at + kCentralSize + central->name_length, central->extra_length),
               false, full, entry.name);
    at += central->length();
    entries.push_back(*std::move(central));
  }
  if (at != end) unreadable("bytes are hidden at the end of the zip directory");
  return entries;
}

void judge_entries(const std::vector<CentralEntry>& entries, const ZipRules& rules,
                   std::vector<ZipFault>& faults) {
  std::set<std::string> folded;
  for (const CentralEntry& central : entries) {
    const ZipEntry& entry = central.entry;
    if (const auto fault = name_fault(entry.name)) faults.push_back({*fault, entry.name});
    if (entry.method == 8 && !rules.allow_deflate) {
      faults.push_back({"it is deflated, where only stored records are allowed", entry.name});
    } else if (entry.method != 0 && entry.method != 8) {
      faults.push_back(
          {"it has the unknown compression method " + std::to_string(entry.method), entry.name});
    }
    if (!good_flags(central.flags, entry.method)) {
      faults.push_back({"it is encrypted or has unknown flags", entry.name});
    }
    if (entry.method == 0 && entry.size != entry.stored_size) {
      faults.push_back({"it is stored, but its two sizes differ", entry.name});
    }
    // Some readers, such as LibTorch's, ignore case when they look up a name.
    if (!folded.insert(lower_ascii(entry.name)).second) {
      faults.push_back(
          {"another record has the same name, or one that differs in case only", entry.name});
    }
  }
}

// Checks the local header against the directory, sets the offset of the data, and returns the end
// of the data.
std::uint64_t read_local(Bytes archive, CentralEntry& central, std::uint64_t limit) {
  ZipEntry& entry = central.entry;
  const std::uint64_t at = central.header;
  if (!within(at, kLocalSize, limit) || load_le<std::uint32_t>(archive, at) != kLocalSignature) {
    unreadable("its local header is damaged", entry.name);
  }
  const auto crc = load_le<std::uint32_t>(archive, at + 14);
  std::uint64_t stored_size = load_le<std::uint32_t>(archive, at + 18);
  std::uint64_t size = load_le<std::uint32_t>(archive, at + 22);
  const std::size_t name_length = load_le<std::uint16_t>(archive, at + 26);
  const std::size_t extra_length = load_le<std::uint16_t>(archive, at + 28);
  if (!within(at + kLocalSize, name_length + extra_length, limit)) {
    unreadable("its local header is damaged", entry.name);
  }
  std::vector<std::uint64_t*> full;
  if (size == kFull32) full.push_back(&size);
  if (stored_size == kFull32) full.push_back(&stored_size);
  read_zip64(archive.subspan(at + kLocalSize + name_length, extra_length), true, full, entry.name);
  // With a data descriptor, which has the three values, they may be zero here.
  const bool later = (central.flags & 8) != 0;
  const bool agrees = text(archive, at + kLocalSize, name_length) == entry.name &&
                      load_le<std::uint16_t>(archive, at + 6) == central.flags &&
                      load_le<std::uint16_t>(archive, at + 8) == entry.method &&
                      (crc == entry.crc || (later && crc == 0)) &&
                      (size == entry.size || (later && size == 0)) &&
                      (stored_size == entry.stored_size || (later && stored_size == 0));
  if (!agrees) unreadable("its local header disagrees with the zip directory", entry.name);
  entry.offset = at + kLocalSize + name_length + extra_length;
  if (!within(entry.offset, entry.stored_size, limit)) {
    unreadable("its data reach beyond the records", entry.name);
  }
  return entry.offset + entry.stored_size;
}

bool descriptor_agrees(Bytes archive, const ZipEntry& entry, std::uint64_t at, std::uint64_t size) {
  if (size != 16 && size != 24) return false;
  const bool wide = size == 24;
  const std::uint64_t stored =
      wide ? load_le<std::uint64_t>(archive, at + 8) : load_le<std::uint32_t>(archive, at + 8);
  const std::uint64_t unpacked =
      wide ? load_le<std::uint64_t>(archive, at + 16) : load_le<std::uint32_t>(archive, at + 12);
  return load_le<std::uint32_t>(archive, at) == kDescriptorSignature &&
         load_le<std::uint32_t>(archive, at + 4) == entry.crc && stored == entry.stored_size &&
         unpacked == entry.size;
}

// Checks that each byte before the directory belongs to exactly one record.
void read_records(Bytes archive, std::vector<CentralEntry>& entries, std::uint64_t end) {
  std::vector<CentralEntry*> order;
  order.reserve(entries.size());
  for (CentralEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->header < b->header; });
  if ((order.empty() ? end : order.front()->header) != 0) {
    unreadable("bytes stand before the first zip record");
  }
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::uint64_t next = i + 1 < order.size() ? order[i + 1]->header : end;
    const std::string& name = order[i]->entry.name;
    if (next == order[i]->header) unreadable("it overlaps another record", name);
    if (next > end) unreadable("its local header lies outside the records", name);
    const std::uint64_t data_end = read_local(archive, *order[i], next);
    const std::uint64_t gap = next - data_end;
    const bool described = (order[i]->flags & 8) != 0;
    if (described && !descriptor_agrees(archive, order[i]->entry, data_end, gap)) {
      unreadable("its data descriptor disagrees with the zip directory", name);
    }
    if (!described && gap != 0) unreadable("bytes are hidden behind it", name);
  }
}

}  // namespace

ZipIndex read_zip_index(Bytes archive, const ZipRules& rules) {
  ZipIndex index;
  std::vector<CentralEntry> entries;
  try {
    const Directory directory = find_directory(archive);
    entries = read_central(archive, directory, rules);
    judge_entries(entries, rules, index.faults);
    read_records(archive, entries, directory.offset);
  } catch (Unreadable& stop) {
    index.faults.push_back(std::move(stop.fault));
    return index;
  }
  index.entries.reserve(entries.size());
  for (CentralEntry& central : entries) index.entries.push_back(std::move(central.entry));
  return index;
}

std::vector<std::string> list_zip_names(const Descriptor& file, std::uint64_t file_size) {
  constexpr std::size_t kMaxComment = 65535;
  constexpr std::uint64_t kMaxDirectory = 64u << 20;  // enough to identify any file
  const auto tail_size = std::min<std::uint64_t>(file_size, kEndSize + kMaxComment);
  const auto tail = read_at(file, file_size - tail_size, tail_size);
  std::vector<std::string> names;
  if (tail.size() < kEndSize) return names;
  std::size_t end = tail.size() - kEndSize;
  while (load_le<std::uint32_t>(tail, end) != kEndSignature)
    if (end-- == 0) return names;
  Directory directory = read_end(tail, end);
  // In a zip64 archive the directory ends where the two zip64 records begin.
  const std::uint64_t records = kEnd64Size + kLocatorSize + directory.size;
  const std::uint64_t end_in_file = file_size - tail.size() + end;
  if (directory.offset == kFull32 && end_in_file >= records)
    directory.offset = end_in_file - records;
  const auto bytes = read_at(file, directory.offset, std::min(directory.size, kMaxDirectory));
  std::uint64_t at = 0;
  while (auto central = read_central_entry(bytes, at, bytes.size())) {
    at += central->length();
    names.push_back(std::move(central->entry.name));
  }
  return names;
}

Bytes stored_bytes(Bytes archive, const ZipEntry& entry) {
  return archive.subspan(entry.offset, entry.stored_size);
}

bool crc_matches(Bytes unpacked, const ZipEntry& entry) {
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(unpacked.data()), unpacked.size());
  return static_cast<std::uint32_t>(crc) == entry.crc;
}

std::vector<std::byte> unpack(Bytes archive, const ZipEntry& entry) {
  const Bytes stored = stored_bytes(archive, entry);
  std::vector<std::byte> bytes;
  if (entry.method == 0) {
    bytes.assign(stored.begin(), stored.end());
  } else {
    // Deflate packs at most 1032 to 1, so a larger claim is refused before memory is allocated.
    if (entry.size / 1032 > entry.stored_size + 1) {
      throw IoError("its unpacked size is not believable");
    }
    if (std::max(entry.size, entry.stored_size) > kFull32) {  // zlib counts with 32 bits
      throw IoError(
          "it is deflated and larger than 4 GiB, which cannot be unpacked here; store it");
    }
    bytes.resize(entry.size);
    z_stream stream{};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw IoError("zlib could not start");
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(stored.data()));
    stream.avail_in = static_cast<uInt>(stored.size());
    std::array<std::byte, 1> nothing{};
    stream.next_out = reinterpret_cast<Bytef*>(bytes.empty() ? nothing.data() : bytes.data());
    stream.avail_out = static_cast<uInt>(bytes.size());
    const int result = inflate(&stream, Z_FINISH);
    const bool whole =
        result == Z_STREAM_END && stream.total_out == entry.size && stream.avail_in == 0;
    inflateEnd(&stream);
    if (!whole) throw IoError("its deflated data are damaged");
  }
  if (!crc_matches(bytes, entry)) throw IoError("its checksum does not match");
  return bytes;
}

}  // namespace isthmus::detail
