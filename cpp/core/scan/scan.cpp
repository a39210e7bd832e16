#include "isthmus/scan.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/files/file_io.h"
#include "core/files/zip.h"
#include "core/scan/archive_records.h"
#include "core/scan/pickle.h"
#include "core/scan/torchscript_code.h"
#include "core/text.h"

namespace isthmus {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t kMaxEntries = 1 << 20;
constexpr std::uint64_t kMaxPickle = 256u << 20;  // bytes of one pickle
// Bytes of the code and its tables of positions together. torch deflates them, so the size of the
// archive does not limit the memory that they need.
constexpr std::uint64_t kMaxUnpacked = 256u << 20;

std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Scans one archive. Records are identified by their names without the top folder and without
/// case, because LibTorch ignores case when it looks up records.
class ArchiveScanner {
 public:
  ArchiveScanner(Bytes archive, const std::set<std::string>& allowed_namespaces)
      : archive_(archive), state_{allowed_namespaces, {}, {}} {}

  ArchiveScan run() {
    state_.result.format = "torchscript";
    if (read_container()) {
      read_version();
      scan_all_code();
      scan_pickles();
    }
    state_.finish();
    return std::move(state_.result);
  }

 private:
  struct Record {
    std::string name;  ///< without the top folder
    const detail::ZipEntry* entry = nullptr;
  };

  void refuse(const char* kind, std::string what, std::string where = "archive") {
    state_.refuse(kind, std::move(what), std::move(where));
  }

  bool read_container() {
    if (archive_.size() >= 8 && std::memcmp(archive_.data() + 4, "PTMF", 4) == 0) {
      state_.result.format = "torchscript_flatbuffer";
      refuse(
          "format",
          "a flatbuffer stands in place of the zip archive; save the module with torch.jit.save");
      return false;
    }
    index_ = detail::read_zip_index(archive_, {.allow_deflate = true, .max_entries = kMaxEntries});
    const auto report = [this](const char* kind, std::string what, std::string where) {
      refuse(kind, std::move(what), std::move(where));
    };
    for (auto& [name, entry] : detail::records_in_folder(index_, report)) {
      std::string key = detail::lower_ascii(name);
      judge_compression(key, *entry);
      records_[std::move(key)] = {std::move(name), entry};
    }
    if (!index_.faults.empty()) return false;
    for (const char* needed : {"data.pkl", "constants.pkl"}) {
      if (!records_.contains(needed)) {
        refuse("format", "it is no TorchScript archive: it has no " + std::string(needed));
      }
    }
    for (const char* old : {"model.json", "attributes.pkl", "tensors.json"}) {
      if (records_.contains(old)) {
        refuse("format",
               "it is in a format from before PyTorch 1.3, which has other rules; load it and save "
               "it again",
               old);
      }
    }
    return !state_.result.refused();
  }

  // torch.jit.save deflates code and its tables of positions, and nothing else.
  void judge_compression(const std::string& key, const detail::ZipEntry& entry) {
    if (entry.method == 0) return;
    if (!key.starts_with("code/")) {
      return refuse("zip", "it is deflated, where torch.jit.save stores", entry.name);
    }
    if (entry.size > kMaxUnpacked || (unpacked_ += entry.size) > kMaxUnpacked) {
      refuse("zip", "it unpacks to more than 256 MiB together with the other code", entry.name);
    }
  }

  // Returns the unpacked bytes of a small record after checking its checksum. The large ones are
  // covered by the bundle's digest.
  Bytes checked_bytes(const Record& record) {
    if (record.entry->method != 0) {
      try {
        return unpacked_records_.emplace_back(detail::unpack(archive_, *record.entry));
      } catch (const detail::IoError& error) {
        refuse("zip", error.what(), record.name);
        return {};
      }
    }
    const Bytes bytes = detail::stored_bytes(archive_, *record.entry);
    if (!detail::crc_matches(bytes, *record.entry)) {
      refuse("zip", "its checksum does not match", record.name);
    }
    return bytes;
  }

  void read_version() {
    // LibTorch looks for .data/version first.
    auto record = records_.find(".data/version");
    const auto plain = records_.find("version");
    if (record == records_.end()) record = plain;
    if (record == records_.end()) return refuse("format", "it has no record of its version");
    if (plain != records_.end() && plain != record) {
      return refuse("format", "it has two records of its version", record->second.name);
    }
    if (record->second.entry->size > 32) {
      return refuse("format", "its version is no number", record->second.name);
    }
    const std::string_view text = as_text(checked_bytes(record->second));
    std::int64_t version = 0;
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    for (const char c : text.substr(0, std::min<std::size_t>(digits, 9))) {
      version = version * 10 + (c - '0');
    }
    const std::string_view rest = text.substr(digits);
    if (digits == 0 || digits > 9 || (!rest.empty() && rest != "\n")) {
      return refuse("format", "its version is no number", record->second.name);
    }
    state_.result.file_format_version = version;
  }

  struct CodeFile {
    std::string path;
    detail::Lexed lexed;
  };

  void scan_all_code() {
    std::uint64_t total = 0;
    std::vector<CodeFile> files;
    for (const auto& [key, record] : records_) {
      // All files of code/ are scanned, whether they are imported or not.
      if (!key.starts_with("code/") || key.ends_with(".debug_pkl")) continue;
      if (!record.name.starts_with("code/") || !record.name.ends_with(".py")) {
        refuse("code", "a file beneath code/ is no .py file", record.name);
        continue;
      }
      total += record.entry->size;
      if (total > kMaxUnpacked) return refuse("code", "more than 256 MiB of code", record.name);
      const std::string& source =
          state_.result.code.emplace(record.name, as_text(checked_bytes(record))).first->second;
      files.push_back({record.name, detail::lex_code(source)});
    }
    for (const CodeFile& file : files) {
      std::string module = file.path.substr(5, file.path.size() - 8);
      std::replace(module.begin(), module.end(), '/', '.');
      detail::collect_definitions(file.lexed, module, state_.definitions);
    }
    std::sort(files.begin(), files.end(),
              [](const CodeFile& a, const CodeFile& b) { return a.path < b.path; });
    for (const CodeFile& file : files) detail::scan_code(file.lexed, file.path, state_);
  }

  void scan_pickles() {
    for (const char* name : {"constants", "data"})
      scan_one_pickle(std::string(name) + ".pkl", name, false);
    for (const auto& [key, record] : records_) {
      if (key.ends_with(".debug_pkl")) scan_one_pickle(key, "", true);
    }
  }

  void scan_one_pickle(const std::string& key, const std::string& folder, bool debug_table) {
    const Record& record = records_.at(key);
    if (record.entry->size > kMaxPickle) {
      return refuse("pickle", "it is larger than 256 MiB", record.name);
    }
    const auto storage_size = [&](const std::string& storage) -> std::optional<std::uint64_t> {
      const auto storage_record = records_.find(detail::lower_ascii(folder + "/" + storage));
      if (folder.empty() || storage_record == records_.end()) return std::nullopt;
      return storage_record->second.entry->size;
    };
    detail::scan_pickle({checked_bytes(record), record.name, storage_size, debug_table}, state_);
  }

  Bytes archive_;
  detail::ScanState state_;
  detail::ZipIndex index_;
  std::unordered_map<std::string, Record> records_;
  std::uint64_t unpacked_ = 0;
  std::deque<std::vector<std::byte>>
      unpacked_records_;  // a deque, because their bytes must not move
};

}  // namespace

bool any_refused(const std::vector<Finding>& findings) noexcept {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& finding) { return finding.refused; });
}

std::string describe_refused(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    if (!finding.refused) continue;
    text += (text.empty() ? "" : "\n") + finding.where + ": " + finding.what;
  }
  return text;
}

bool ArchiveScan::refused() const noexcept {
  return any_refused(findings);
}

std::string ArchiveScan::describe() const {
  return describe_refused(findings);
}

ArchiveScan scan_torchscript(std::span<const std::byte> archive,
                             const std::set<std::string>& allowed_namespaces) {
  return ArchiveScanner(archive, allowed_namespaces).run();
}

}  // namespace isthmus
