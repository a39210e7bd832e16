#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "core/scan/torchscript_code.h"

namespace isthmus::detail {

/// A pickle of an archive, and the records that it may refer to.
struct PickleSource {
  std::span<const std::byte> bytes;
  std::string path;  ///< "data.pkl"
  /// Returns the size in bytes of the record of a storage, or nullopt when there is none.
  std::function<std::optional<std::uint64_t>(const std::string& key)> storage_size;
  /// True for a table of source positions (code/*.debug_pkl), whose indices LibTorch does not
  /// check.
  bool debug_table = false;
};

/// Interprets the opcodes as LibTorch's unpickler does, but builds only an abstract copy of the
/// values. Each opcode, global, call and tensor must be one that torch.jit.save writes, each value
/// must have the kind that is expected of it, and tensors and storages must be within their
/// records.
void scan_pickle(const PickleSource& source, ScanState& state);

}  // namespace isthmus::detail
