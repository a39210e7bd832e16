#pragma once

#include <c10/core/Storage.h>
#include <torch/csrc/jit/api/module.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/bundle.h"

namespace isthmus::torch_engine {

/// A TorchScript archive whose tensors are used where they lie: `torch::jit::load` without copies.
///
/// LibTorch loads a module from a torch.package with storages that are there already
/// (torch/csrc/jit/serialization/import.h). So the archive is presented as such a package: pickles
/// and code in memory, under the names that a package has for them, and its tensors as storages
/// over the archive's bytes, which they keep alive. Tensors that share a record share their memory,
/// as they did in the model; `torch::jit::load` makes a copy for each.
class MappedArchive {
 public:
  /// nullopt when it is not laid out for that (deflated or misaligned tensors, no zip archive): to
  /// be loaded, and judged, by LibTorch's own.
  static std::optional<MappedArchive> open(const FileBytes& archive);

  /// nullopt when LibTorch reads it in another order than is known here. @throws as
  /// `torch::jit::load` does.
  [[nodiscard]] std::optional<torch::jit::Module> load(c10::Device device) &&;

 private:
  using Storages = std::vector<std::pair<std::string, c10::Storage>>;

  MappedArchive() = default;

  std::string package_;
  Storages constants_;
  Storages data_;
};

/// What LibTorch says of code of a lent archive, with the names that the files have in the archive.
std::string with_archive_names(std::string text);

}  // namespace isthmus::torch_engine
