#pragma once

#include "isthmus/tensor.h"

namespace isthmus::detail {

/// Returns true when the memory ranges of two tensors meet, gaps between elements included.
/// Undefined and empty tensors have none. Tensors of two devices never share memory.
bool ranges_meet(const Tensor& a, const Tensor& b) noexcept;

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
