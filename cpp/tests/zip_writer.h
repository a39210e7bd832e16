#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Writes zip archives in memory, with the defects that tests need.
namespace isthmus::testing {

struct ZipRecord {
  std::string name = {};
  std::string data = {};  ///< as stored
  std::uint16_t method = 0;
  std::string unpacked = {};    ///< for a deflated record
  std::string local_name = {};  ///< name in the local header; empty: the same
  std::string hidden = {};      ///< bytes after this record
  std::string extra = {};       ///< extra field of the directory's entry
  int size_lie = 0;             ///< added to the directory's size
  std::uint32_t crc_lie = 0;    ///< flipped in both checksums
};

/// Returns a deflate stream that stores the bytes, so that tests need no compressor.
inline std::string deflated(std::string_view data) {
  std::string out;
  do {
    const std::size_t count = data.size() < 65535 ? data.size() : 65535;
    const bool last = count == data.size();
    out += last ? '\1' : '\0';
    for (const std::size_t value : {count, ~count}) {
      out += static_cast<char>(value & 255);
      out += static_cast<char>((value >> 8) & 255);
    }
    out += data.substr(0, count);
    data.remove_prefix(count);
    if (last) break;
  } while (true);
  return out;
}

inline std::uint32_t crc32(std::string_view data) {
  std::uint32_t crc = 0xffffffff;
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

class ZipWriter {
 public:
  void number(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>(i < 8 ? (value >> (8 * i)) & 255 : 0);
  }

  static std::string write(const std::vector<ZipRecord>& records, std::string_view prefix = "",
                           std::string_view comment = "") {
    ZipWriter zip;
    zip.out_ += prefix;
    std::vector<std::size_t> offsets;
    for (const ZipRecord& record : records) {
      offsets.push_back(zip.out_.size());
      zip.header(record, 0x04034b50, record.local_name.empty() ? record.name : record.local_name,
                 0);
      zip.out_ += record.data + record.hidden;
    }
    const std::size_t start = zip.out_.size();
    for (std::size_t i = 0; i < records.size(); ++i) {
      zip.header(records[i], 0x02014b50, records[i].name, offsets[i]);
    }
    const std::size_t size = zip.out_.size() - start;
    zip.number(0x06054b50, 4);
    zip.number(0, 4);
    zip.number(records.size(), 2);
    zip.number(records.size(), 2);
    zip.number(size, 4);
    zip.number(start, 4);
    zip.number(comment.size(), 2);
    zip.out_ += comment;
    return zip.out_;
  }

 private:
  void header(const ZipRecord& record, std::uint32_t signature, const std::string& name,
              std::size_t offset) {
    const bool central = signature == 0x02014b50;
    const std::string& unpacked = record.method == 0 ? record.data : record.unpacked;
    number(signature, 4);
    if (central) number(0, 2);
    number(0, 4);  // version and flags
    number(record.method, 2);
    number(0, 4);  // time and date
    number(crc32(unpacked) ^ record.crc_lie, 4);
    number(record.data.size(), 4);
    number(unpacked.size() + static_cast<std::size_t>(central ? record.size_lie : 0), 4);
    number(name.size(), 2);
    number(central ? record.extra.size() : 0, 2);
    if (central) {
      number(0, 10);
      number(offset, 4);
    }
    out_ += name;
    if (central) out_ += record.extra;
  }

  std::string out_;
};

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace isthmus::testing
