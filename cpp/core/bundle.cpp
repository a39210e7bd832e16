#include "isthmus/bundle.h"

#include <utility>

#include "core/file_io.h"
#include "core/golden.h"
#include "core/manifest.h"
#include "core/sha256.h"
#include "isthmus/error.h"
#include "isthmus/tensor_file.h"

namespace isthmus {
namespace {

constexpr const char* kManifest = "manifest.json";

[[noreturn]] void refuse(const std::filesystem::path& root, const std::string& file,
                         const std::string& what) {
  throw BundleError("bundle " + root.string() + ": " + file + ": " + what);
}

/// Opens a listed file beneath the bundle and uses it; what goes wrong names the file.
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

void require_digest(const std::filesystem::path& root, const FileEntry& entry,
                    const std::string& digest) {
  if (digest == entry.sha256) return;
  refuse(root, entry.path,
         "its content has changed: expected sha256 " + entry.sha256 + ", got " + digest +
             "; copy the bundle or export it again");
}

}  // namespace

Bundle Bundle::open(const std::filesystem::path& path) {
  const Sniffed found = sniff(path);
  if (found.kind != "bundle") {
    throw BundleError("no bundle: " + found.advice);
  }
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
  std::string known;
  for (const Signature& signature : manifest_->methods) {
    if (signature.method == method) return signature;
    known += (known.empty() ? "" : ", ") + signature.method;
  }
  throw InvalidInput("bundle " + root_.string() + " has no method \"" + std::string(method) +
                     "\"; it has: " + known);
}

FileBytes Bundle::read(const FileEntry& entry) const {
  const detail::Buffer buffer = with_file(*this, entry, [](const auto& file, const auto& rule) {
    return detail::read_all(file, rule);
  });
  require_digest(root_, entry, detail::sha256_hex(buffer.bytes()));
  return {entry.path, buffer.data, buffer.size};
}

FileBytes Bundle::map(const FileEntry& entry) const {
  const detail::Buffer buffer = with_file(
      *this, entry, [](const auto& file, const auto& rule) { return detail::map_all(file, rule); });
  return {entry.path, buffer.data, buffer.size};
}

void Bundle::verify(const FileEntry& entry) const {
  detail::Sha256 digest;
  with_file(*this, entry, [&](const auto& file, const auto& rule) {
    (void)detail::map_all(file, rule);  // judges the size
    detail::read_pieces(file, [&](auto piece) { digest.update(piece); });
    return 0;
  });
  require_digest(root_, entry, digest.hex());
}

void Bundle::verify(const FileEntry& entry, const FileBytes& mapped) const {
  detail::Sha256 digest;
  detail::take_mapped(mapped.bytes(), [&](auto piece) { digest.update(piece); });
  require_digest(root_, entry, digest.hex());
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
  for (const FileEntry& entry : manifest_->files) check(entry);
  return faults;
}

}  // namespace isthmus
