#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace isthmus::detail {

/// Reads an unsigned little-endian number at any alignment, on any host. The caller has checked
/// that it is within `bytes`.
template <typename T>
T load_le(std::span<const std::byte> bytes, std::size_t offset) {
  static_assert(std::is_unsigned_v<T>);
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | (static_cast<T>(bytes[offset + i]) << (8 * i)));
  }
  return value;
}

/// Returns true when `count` bytes starting at `offset` are within `size`, without overflow.
constexpr bool within(std::uint64_t offset, std::uint64_t count, std::uint64_t size) {
  return offset <= size && count <= size - offset;
}

}  // namespace isthmus::detail
