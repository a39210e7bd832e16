#include "isthmus/bundle.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>
#include <vector>

#include "core/bundle/digests.h"
#include "core/bundle/golden.h"
#include "core/bundle/manifest.h"
#include "core/bundle/methods.h"
#include "core/files/file_io.h"
#include "core/files/sha256.h"
#include "core/files/zip.h"
#include "isthmus/error.h"
#include "isthmus/identify.h"
#include "isthmus/tensor_file.h"

namespace isthmus {
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kCopyAgain = "; copy the bundle or export it again";

[[noreturn]] void refuse(const std::filesystem::path& root, const std::string& file,
                         const std::string& what) {
  throw BundleError("bundle " + root.string() + ": " + file + ": " + what);
}

/// Opens a listed file of the bundle and calls `use` with it and its size. Errors name the file.
template <typename Use>
auto with_file(const Bundle& bundle, const FileEntry& entry, Use use) {
  try {
    return use(detail::Root(bundle.root()).open(entry.path),
               detail::SizeRule{.at_most = entry.size, .exactly = entry.size});
  } catch (const detail::IoError& error) {
    refuse(bundle.root(), entry.path,
           std::string(error.what()) + "; the bundle is damaged: copy it or export it again");
  } catch (const std::bad_alloc&) {
    refuse(bundle.root(), entry.path,
           "its " + std::to_string(entry.size) + " bytes do not fit in memory");
  }
}

void require_content(const std::filesystem::path& root, const FileEntry& entry,
                     std::span<const detail::Bytes> parts,
                     const std::function<void(detail::Bytes)>& done = {}) {
  const std::string fault = detail::digest_fault(entry, parts, done);
  if (!fault.empty()) refuse(root, entry.path, fault + kCopyAgain);
}

/// Returns the positions of the tensors of an archive in order: the stored records of the folders
/// data and constants, without the documents of an exported program. nullopt when another reader
/// could see other records.
std::optional<std::vector<detail::ByteRange>> tensor_ranges(std::span<const std::byte> archive) {
  const detail::ZipIndex index = detail::read_zip_index(archive, {.allow_deflate = true});
  if (!index.faults.empty()) return std::nullopt;
  std::vector<detail::ByteRange> ranges;
  for (const detail::ZipEntry& entry : index.entries) {
    const std::string_view name(entry.name);
    const std::size_t folder = name.find('/') + 1;  // 0 without a folder
    const std::string_view rest = name.substr(folder);
    const bool document = rest.ends_with(".json") || rest.ends_with(".pt");
    if (entry.method == 0 && !document &&
        (rest.starts_with("data/") || rest.starts_with("constants/")))
      ranges.push_back({entry.offset, entry.offset + entry.size});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const auto& a, const auto& b) { return a.begin < b.begin; });
  return ranges;
}

}  // namespace

std::string OpLibrary::describe() const {
  std::string origin = library;
  if (!package.empty())
    origin += (origin.empty() ? "" : " of ") + ("the Python package " + package) +
              (version.empty() ? "" : " " + version);
  return op_namespace + (origin.empty() ? "" : " (" + origin + ")");
}

Bundle Bundle::open(const std::filesystem::path& path) {
  const IdentifiedFile file = identify_file(path);
  if (file.kind != "bundle") throw BundleError("no bundle: " + file.advice);
  detail::Buffer text;
  try {
    text =
        detail::Root(path).read(kManifest, {.at_most = detail::kMaxManifestBytes, .exactly = {}});
  } catch (const detail::IoError& error) {
    refuse(path, kManifest, error.what());
  }
  Bundle bundle;
  bundle.root_ = path;
  bundle.manifest_ = std::make_shared<const Manifest>(
      detail::parse_manifest({reinterpret_cast<const char*>(text.data.get()), text.size},
                             "bundle " + path.string() + ": manifest.json"));
  return bundle;
}

const Signature& Bundle::signature(std::string_view method) const {
  return manifest_->methods[detail::method_index(*manifest_, method, "bundle " + root_.string())];
}

FileBytes Bundle::read(const FileEntry& entry) const {
  const detail::Buffer buffer = with_file(*this, entry, [](const auto& file, const auto& rule) {
    return detail::read_all(file, rule);
  });
  require_content(root_, entry, std::array{buffer.bytes()});
  return {entry.path, buffer.data, buffer.size, buffer.data};
}

FileBytes Bundle::map(const FileEntry& entry) const {
  const detail::Buffer buffer = with_file(
      *this, entry, [](const auto& file, const auto& rule) { return detail::map_all(file, rule); });
  return {entry.path, buffer.data, buffer.size, buffer.data};
}

FileBytes Bundle::map_archive(const FileEntry& entry) const {
  // Mapped twice, because the pages between the tensors, which become private below, would break up
  // the large pages of the system.
  detail::Buffer archive;
  detail::Buffer weights;
  with_file(*this, entry, [&](const auto& file, const auto& rule) {
    try {
      archive = detail::map_private(file, rule);
      weights = detail::map_private(file, rule);
    } catch (const detail::IoError&) {
      // Some file systems cannot map. `read` reports any other error.
    }
    return 0;
  });
  if (!weights.data) return read(entry);
  const auto tensors = tensor_ranges(archive.bytes());
  if (!tensors) return read(entry);
  detail::own_pages_outside(archive.bytes(), *tensors);
  // The directory is read again now that no other process can change it, so that code cannot be
  // taken for tensors.
  if (tensor_ranges(archive.bytes()) != tensors) return read(entry);
  std::vector<detail::Bytes> parts;
  std::size_t at = 0;
  for (const detail::ByteRange& range : *tensors) {
    parts.push_back(archive.bytes().subspan(at, range.begin - at));
    parts.push_back(weights.bytes().subspan(range.begin, range.end - range.begin));
    at = range.end;
  }
  parts.push_back(archive.bytes().subspan(at));
  require_content(root_, entry, parts);
  return {entry.path, archive.data, archive.size, weights.data};
}

void Bundle::verify(const FileEntry& entry) const {
  detail::Sha256 digest;
  with_file(*this, entry, [&](const auto& file, const auto& rule) {
    (void)detail::map_all(file, rule);  // checks the size
    detail::read_pieces(file, [&](auto piece) { digest.update(piece); });
    return 0;
  });
  const std::string got = digest.hex();
  if (got != entry.sha256)
    refuse(root_, entry.path, detail::digest_mismatch(entry.sha256, got) + kCopyAgain);
}

void Bundle::verify(const FileEntry& entry, const FileBytes& mapped) const {
  require_content(root_, entry, std::array{mapped.bytes()}, detail::release_pages);
}

std::vector<GoldenCall> Bundle::golden(const Golden& golden) const {
  const FileBytes file = read(golden.file);
  const std::string label = "bundle " + root_.string() + ": " + golden.file.path;
  NamedTensors tensors;
  try {
    tensors = parse_safetensors(file.bytes(), label);
  } catch (const InvalidInput& error) {
    throw BundleError(error.what());
  }
  return detail::to_calls(*manifest_, golden, tensors, label);
}

std::vector<std::string> Bundle::check_files() const {
  std::vector<std::string> faults;
  const auto check = [&](const FileEntry& entry) {
    try {
      verify(entry);
    } catch (const BundleError& error) {
      faults.emplace_back(error.what());
    }
  };
  for (const Artifact& artifact : manifest_->artifacts) {
    for (const FileEntry& entry : artifact.files) check(entry);
  }
  for (const Golden& golden : manifest_->goldens) check(golden.file);
  for (const Golden& golden : manifest_->specials) check(golden.file);
  for (const FileEntry& entry : manifest_->files) check(entry);
  return faults;
}

}  // namespace isthmus
