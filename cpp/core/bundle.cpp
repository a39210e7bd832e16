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
  detail::Buffer buffer;
  try {
    buffer = detail::Root(root_).read(entry.path, {.at_most = entry.size, .exactly = entry.size});
  } catch (const detail::IoError& error) {
    refuse(root_, entry.path,
           std::string(error.what()) + "; the bundle is damaged: copy it or export it again");
  } catch (const std::bad_alloc&) {
    refuse(root_, entry.path, "its " + std::to_string(entry.size) + " bytes do not fit in memory");
  }
  const std::string digest = detail::sha256_hex(buffer.bytes());
  if (digest != entry.sha256) {
    refuse(root_, entry.path,
           "its content has changed: expected sha256 " + entry.sha256 + ", got " + digest +
               "; copy the bundle or export it again");
  }
  return {entry.path, std::move(buffer.data), buffer.size};
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
      (void)read(entry);
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
