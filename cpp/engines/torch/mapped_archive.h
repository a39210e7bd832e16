#pragma once

#include <c10/core/Storage.h>
#include <torch/csrc/jit/api/module.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::torch_engine {

/// A TorchScript archive that is loaded without copying its tensors.
///
/// `torch::jit::load` copies every tensor out of the archive. LibTorch can also load a module from
/// a torch.package whose tensors are given as storages (`import_ir_module` with a
/// DeserializationStorageContext). A MappedArchive presents the archive as such a package: pickles
/// and code are copied into a small package in memory, and each tensor record becomes a storage
/// over the archive's bytes, which the storage keeps alive. Tensors that share a record share
/// memory, as they did in the model.
///
/// The package format has one namespace for tensors, an archive has two (constants/ and data/),
/// whose names collide. `load` therefore relies on how LibTorch reads a package:
///
/// 1. It takes every storage out of the context by name and uses it as it is.
/// 2. It resolves all tensors of constants.pkl before it reads the header of the record data.pkl.
/// 3. Between the two it keeps the context only by shared pointer, and the context is a plain map.
///
/// When the header of data.pkl is read, `load` replaces the constants in the context by the data.
/// The order is that of ScriptModuleDeserializer::deserialize in
/// torch/csrc/jit/serialization/import.cpp, unchanged in LibTorch 2.11 to 2.13 (those that isthmus
/// supports): the code needs the constants, and the module in data.pkl needs the code.
///
/// What is checked: the type of the context, when this is compiled; at each load, that all
/// constants were taken before the replacement and that the replacement took place. A LibTorch that
/// reads in another order is thus noticed at load, and `load` returns nullopt.
/// tests/test_mapped_weights.py fails in that case, and when a storage is copied or given to the
/// wrong tensor.
class MappedArchive {
 public:
  /// Returns nullopt when the archive is not laid out for this (deflated or misaligned tensors, not
  /// a zip archive): `torch::jit::load` then loads it or reports what is wrong with it.
  static std::optional<MappedArchive> open(const FileBytes& archive);

  /// Returns nullopt when LibTorch does not read in the order above.
  /// @throws c10::Error as `torch::jit::load` does.
  [[nodiscard]] std::optional<torch::jit::Module> load(c10::Device device) &&;

 private:
  using Storages = std::vector<std::pair<std::string, c10::Storage>>;

  MappedArchive() = default;

  std::string package_;
  Storages constants_;
  Storages data_;
};

/// Replaces the names that code has in the package by those in the archive, in a message of
/// LibTorch.
std::string with_archive_names(std::string text);

}  // namespace isthmus::torch_engine
