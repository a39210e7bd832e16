#include "isthmus/bundle.h"

#include <algorithm>

#include "core/file_io.h"
#include "core/golden.h"
#include "core/manifest.h"
#include "core/sha256.h"
#include "isthmus/error.h"
#include "isthmus/tensor_file.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;

/// Larger than any model file today; a manifest that lists more is not believed.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 40;

/// Reads a file beneath the root, never through a symbolic link.
FileBytes read_beneath(const fs::path& root, const std::string& relative,
                       const detail::SizeRule& rule) {
  try {
    detail::Buffer buffer = detail::Root(root).read(relative, rule);
    return {relative, std::move(buffer.data), buffer.size};
  } catch (const detail::IoError& error) {
    throw BundleError("\"" + (root / relative).string() + "\": " + error.what() +
                      "; the bundle is not whole: copy or export it again");
  }
}

/// Explains what is at `path` when it is no bundle.
[[noreturn]] void refuse_foreign(const fs::path& path) {
  const Sniffed sniffed = sniff(path);
  throw BundleError("\"" + path.string() + "\" is not a bundle: " + sniffed.advice);
}

}  // namespace

Bundle Bundle::open(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored) ||
      !fs::exists(fs::symlink_status(path / kManifestName, ignored)))
    refuse_foreign(path);
  Bundle bundle;
  bundle.root_ = path;
  const FileBytes bytes = read_beneath(path, kManifestName, {kMaxManifestBytes, std::nullopt});
  bundle.manifest_ = std::make_shared<const Manifest>(
      parse_manifest(bytes.bytes(), "\"" + (path / kManifestName).string() + "\""));
  return bundle;
}

const Signature& Bundle::signature(std::string_view method) const {
  const auto& methods = manifest_->methods;
  const auto found = std::find_if(methods.begin(), methods.end(),
                                  [&](const Signature& s) { return s.method == method; });
  if (found != methods.end()) return *found;
  std::string there;
  for (const Signature& signature : methods)
    there += (there.empty() ? "\"" : ", \"") + signature.method + "\"";
  throw InvalidInput("the model has no method \"" + std::string(method) + "\"; it has " + there);
}

FileBytes Bundle::read(const FileEntry& entry) const {
  if (entry.size > kMaxFileBytes)
    throw BundleError("\"" + entry.path + "\": a size of " + std::to_string(entry.size) +
                      " bytes is listed, more than the limit of " + std::to_string(kMaxFileBytes));
  FileBytes bytes = read_beneath(root_, entry.path, {kMaxFileBytes, entry.size});
  const std::string digest = detail::sha256_hex(bytes.bytes());
  if (digest != entry.sha256)
    throw BundleError("\"" + (root_ / entry.path).string() + "\" has sha256 " + digest +
                      ", the manifest lists " + entry.sha256 +
                      "; it was changed or damaged: copy or export the bundle again");
  return bytes;
}

std::vector<GoldenCall> Bundle::golden(const Golden& golden) const {
  const FileBytes bytes = read(golden.file);
  try {
    return split_golden(*manifest_, golden, parse_safetensors(bytes.bytes(), golden.file.path));
  } catch (const InvalidInput& error) {
    throw BundleError(std::string("golden \"") + golden.name + "\": " + error.what());
  }
}

std::vector<std::string> Bundle::check_files() const {
  std::vector<std::string> faults;
  const auto check = [&](const FileEntry& entry) {
    try {
      (void)read(entry);
    } catch (const BundleError& error) {
      faults.emplace_back(error.what());
    }
  };
  for (const Artifact& artifact : manifest_->artifacts)
    for (const FileEntry& entry : artifact.files) check(entry);
  for (const Golden& golden : manifest_->goldens) check(golden.file);
  for (const FileEntry& entry : manifest_->files) check(entry);
  return faults;
}

}  // namespace isthmus
