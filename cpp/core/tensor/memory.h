#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor/dtype_table.h"
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

/// Returns the range of a tensor that has strides and elements.
/// @param item  bytes of an element
MemoryRange strided_memory_range(const Tensor& tensor, std::size_t item) noexcept;

inline MemoryRange memory_range(const Tensor& tensor) noexcept {
  const std::size_t item = row_of(tensor.dtype()).size;
  std::size_t bytes = tensor.defined() ? item : 0;
  for (const std::int64_t size : tensor.shape()) bytes *= static_cast<std::size_t>(size);
  if (bytes == 0) return {};
  if (!tensor.strides().empty()) return strided_memory_range(tensor, item);
  const auto begin = reinterpret_cast<std::uintptr_t>(tensor.data());
  return {begin, begin + bytes};
}

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
