#include "core/tensor/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/tensor/dtype_table.h"

namespace isthmus::detail {
namespace {

/// Calls `visit(element)` with the address of each element of a strided tensor.
template <typename Visit>
void for_each_element(const Tensor& tensor, char* at, std::size_t axis, const Visit& visit) {
  if (axis == tensor.rank()) return visit(at);
  const std::int64_t step =
      tensor.strides()[axis] * static_cast<std::int64_t>(size_of(tensor.dtype()));
  for (std::int64_t i = 0; i < tensor.shape()[axis]; ++i, at += step)
    for_each_element(tensor, at, axis + 1, visit);
}

/// Returns, for each byte of a range, whether the tensor has it.
std::vector<bool> bytes_in(const Tensor& tensor, const MemoryRange& range) {
  std::vector<bool> bytes(range.end - range.begin);
  const auto mark = [&](std::uintptr_t begin, std::uintptr_t end) {
    for (std::uintptr_t at = std::max(begin, range.begin); at < std::min(end, range.end); ++at)
      bytes[at - range.begin] = true;
  };
  const MemoryRange own = memory_range(tensor);
  if (tensor.is_contiguous()) {
    mark(own.begin, own.end);
  } else {
    for_each_element(tensor, static_cast<char*>(tensor.data()), 0, [&](const char* element) {
      const auto begin = reinterpret_cast<std::uintptr_t>(element);
      mark(begin, begin + size_of(tensor.dtype()));
    });
  }
  return bytes;
}

}  // namespace

MemoryRange strided_memory_range(const Tensor& tensor, std::size_t item) noexcept {
  const auto start = reinterpret_cast<std::uintptr_t>(tensor.data());
  MemoryRange range{start, start + item};
  for (std::size_t axis = 0; axis < tensor.rank(); ++axis) {
    const std::int64_t reach =
        (tensor.shape()[axis] - 1) * tensor.strides()[axis] * static_cast<std::int64_t>(item);
    (reach < 0 ? range.begin : range.end) += static_cast<std::uintptr_t>(reach);
  }
  return range;
}

bool share_elements(const Tensor& a, const Tensor& b) {
  const MemoryRange first = memory_range(a);
  const MemoryRange second = memory_range(b);
  if (!first.meets(second)) return false;
  if (a.is_contiguous() && b.is_contiguous()) return true;
  const MemoryRange common{std::max(first.begin, second.begin), std::min(first.end, second.end)};
  const std::vector<bool> of_a = bytes_in(a, common);
  const std::vector<bool> of_b = bytes_in(b, common);
  for (std::size_t i = 0; i < of_a.size(); ++i)
    if (of_a[i] && of_b[i]) return true;
  return false;
}

bool overlaps_itself(const Tensor& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0) return false;
  std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // stride and size
  for (std::size_t axis = 0; axis < tensor.rank(); ++axis)
    if (tensor.shape()[axis] > 1)
      axes.emplace_back(std::abs(tensor.strides()[axis]), tensor.shape()[axis]);
  std::sort(axes.begin(), axes.end());
  std::int64_t reach = 0;  // of the axes with smaller strides
  for (const auto& [stride, size] : axes) {
    if (stride <= reach) return true;
    reach += stride * (size - 1);
  }
  return false;
}

void copy_elements(const Tensor& from, const Tensor& to) {
  if (from.numel() == 0) return;
  const auto* next = static_cast<const char*>(from.data());
  if (to.is_contiguous()) {
    std::memmove(to.data(), next, from.nbytes());
    return;
  }
  const std::size_t item = size_of(from.dtype());
  for_each_element(to, static_cast<char*>(to.data()), 0, [&](char* element) {
    std::memcpy(element, next, item);
    next += item;
  });
}

}  // namespace isthmus::detail
