#include "engines/torch/mapped_archive.h"

#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/versions.h>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/storage_context.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include "engines/torch/bytes_reader.h"

namespace isthmus::torch_engine {
namespace {

using caffe2::serialize::PyTorchStreamReader;
using caffe2::serialize::PyTorchStreamWriter;
using torch::jit::DeserializationStorageContext;

constexpr std::string_view kPackage = ".data/ts_code/";
constexpr const char* kModule = "0";
constexpr std::size_t kAlignment = 64;  // of torch.jit.save; kernels may rely on it

// See the contract in the header.
static_assert(!std::is_polymorphic_v<DeserializationStorageContext> &&
                  !std::is_copy_constructible_v<DeserializationStorageContext> &&
                  std::is_default_constructible_v<DeserializationStorageContext>,
              "MappedArchive::load replaces the content of LibTorch's storage context");

/// The archive cannot be mapped; thrown and caught in this file.
struct CannotMap {};

/// Returns the name in the package of a record without tensors; empty when a load does not read it.
std::string package_name(const std::string& name) {
  if (name == "data.pkl" || name == "constants.pkl")
    return std::string(kPackage) + kModule + "/" + name;
  return name.starts_with("code/") ? std::string(kPackage) + name : std::string();
}

bool is_stored(const FileBytes& archive, std::size_t header) {
  constexpr std::size_t kMethod = 8;  // offset in a zip archive's local header, two bytes
  return header + kMethod + 2 <= archive.size && archive.data[header + kMethod] == std::byte{0} &&
         archive.data[header + kMethod + 1] == std::byte{0};
}

/// Returns a storage over the bytes of a record. @throws CannotMap.
c10::Storage map_record(const FileBytes& archive, PyTorchStreamReader& reader,
                        const std::string& name) {
  if (!is_stored(archive, reader.getRecordHeaderOffset(name))) throw CannotMap();
  const std::size_t size = reader.getRecordSize(name);
  auto* at = const_cast<std::byte*>(archive.weights.get()) + reader.getRecordOffset(name);
  if (reinterpret_cast<std::uintptr_t>(at) % kAlignment != 0) throw CannotMap();
  using Owner = std::shared_ptr<const std::byte[]>;
  auto owner = std::make_unique<Owner>(archive.weights);
  c10::DataPtr data(
      at, owner.release(), [](void* held) { std::unique_ptr<Owner>(static_cast<Owner*>(held)); },
      c10::kCPU);
  return {c10::Storage::use_byte_size_t(), size, std::move(data), /*allocator=*/nullptr,
          /*resizable=*/false};
}

/// Reads a package, and calls a function before the first read at a given position.
class PackageReader final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit PackageReader(std::string bytes) : bytes_(std::move(bytes)) {}

  [[nodiscard]] std::size_t size() const override { return bytes_.size(); }

  std::size_t read(std::uint64_t position, void* to, std::size_t count,
                   const char* /*what*/) const override {
    if (before_ && position == position_) std::exchange(before_, nullptr)();
    const std::size_t from = std::min<std::uint64_t>(position, bytes_.size());
    return bytes_.copy(static_cast<char*>(to), count, from);
  }

  void call_before(std::uint64_t position, std::function<void()> function) {
    position_ = position;
    before_ = std::move(function);
  }
  [[nodiscard]] bool called() const { return !before_; }

 private:
  std::string bytes_;
  std::uint64_t position_ = 0;
  mutable std::function<void()> before_;
};

}  // namespace

std::optional<MappedArchive> MappedArchive::open(const FileBytes& archive) try {
  PyTorchStreamReader reader(std::make_shared<BytesReader>(archive));
  // The version tells how code is read, and the writer below gives its package at least this one.
  if (reader.version() < caffe2::serialize::kMinProducedFileFormatVersion) return std::nullopt;
  MappedArchive mapped;
  PyTorchStreamWriter writer(
      [&](const void* from, std::size_t count) {
        mapped.package_.append(static_cast<const char*>(from), count);
        return count;
      },
      /*compute_crc32=*/false);
  writer.setMinVersion(reader.version());
  for (const std::string& name : reader.getAllRecords()) {
    const std::string key = name.substr(name.find('/') + 1);
    if (name.starts_with("constants/")) {
      mapped.constants_.emplace_back(key, map_record(archive, reader, name));
    } else if (name.starts_with("data/")) {
      mapped.data_.emplace_back(key, map_record(archive, reader, name));
    } else if (const std::string packaged = package_name(name); !packaged.empty()) {
      const auto [bytes, size] = reader.getRecord(name);
      writer.writeRecord(packaged, bytes.get(), size);
    }
  }
  writer.writeEndOfFile();
  return mapped;
} catch (const CannotMap&) {
  return std::nullopt;
} catch (const c10::Error&) {
  return std::nullopt;
}

std::optional<torch::jit::Module> MappedArchive::load(c10::Device device) && try {
  const auto bytes = std::make_shared<PackageReader>(std::move(package_));
  const auto reader = std::make_shared<PyTorchStreamReader>(bytes);
  const auto context = std::make_shared<DeserializationStorageContext>();
  for (const auto& [key, storage] : constants_) context->addStorage(key, storage);
  bytes->call_before(reader->getRecordHeaderOffset(package_name("data.pkl")), [&] {
    // The context has no way to remove a storage.
    std::destroy_at(context.get());
    std::construct_at(context.get());
    for (const auto& [key, storage] : constants_)
      if (storage.use_count() == 1) throw CannotMap();  // not taken yet, or copied to a device
    for (const auto& [key, storage] : data_) context->addStorage(key, storage);
  });
  try {
    auto module = torch::jit::import_ir_module(std::make_shared<torch::jit::CompilationUnit>(),
                                               reader, context, device, kModule);
    if (bytes->called()) return module;
  } catch (const c10::Error&) {
    if (bytes->called()) throw;
  }
  return std::nullopt;  // the constants were in the context when the data was read
} catch (const CannotMap&) {
  return std::nullopt;
}

std::string with_archive_names(std::string text) {
  const std::string packaged = std::string(kPackage) + "code/";
  for (auto at = text.find(packaged); at != std::string::npos; at = text.find(packaged, at))
    text.erase(at, kPackage.size());
  return text;
}

}  // namespace isthmus::torch_engine
