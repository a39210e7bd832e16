#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "core/scan/torchscript_code.h"

namespace isthmus::detail {

/// A pickle of an archive, and what it may refer to.
struct PickleSource {
  std::span<const std::byte> bytes;
  std::string path;  ///< "data.pkl"
  /// Size in bytes of the record that holds a storage, by key; nullopt when there is none.
  std::function<std::optional<std::uint64_t>(const std::string& key)> storage_size;
  /// A table of source positions (code/*.debug_pkl), whose indices LibTorch does not check.
  bool debug_table = false;
};

/// Walks the opcodes as LibTorch's own unpickler does, building nothing but a shadow of the values:
/// each opcode, global, call and tensor must be one that torch.jit.save writes, each value of the
/// kind that its user expects, each tensor within its storage and each storage within its record.
void scan_pickle(const PickleSource& source, ScanState& state);

}  // namespace isthmus::detail
