#pragma once

#include <cstdint>

#include "isthmus/tensor.h"

namespace isthmus::detail {

/// The addresses between which the elements of a tensor lie, gaps between elements included.
/// Undefined and empty tensors have none (0 to 0). Tensors of two devices never share memory.
struct MemoryRange {
  std::uintptr_t begin;
  std::uintptr_t end;  ///< exclusive

  [[nodiscard]] bool meets(const MemoryRange& other) const noexcept {
    return begin < other.end && other.begin < end;
  }
};

MemoryRange memory_range(const Tensor& tensor) noexcept;

/// Returns true when two tensors share an element. Where the ranges of non-contiguous tensors meet,
/// every element is looked at.
bool share_elements(const Tensor& a, const Tensor& b);

/// Returns true when two elements of one tensor may be the same memory, as in a tensor that was
/// expanded (stride 0).
bool overlaps_itself(const Tensor& tensor);

/// Copies the elements of a contiguous tensor into another one of the same dtype and shape, with
/// any strides. Both are on the CPU.
void copy_elements(const Tensor& from, const Tensor& to);

}  // namespace isthmus::detail
