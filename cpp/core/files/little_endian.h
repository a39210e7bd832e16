#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace isthmus::detail {

/// Reads an unsigned little-endian number; the caller has checked that it lies within `bytes`.
/// The shifts keep it right on any host and free of alignment rules.
template <typename T>
T load_le(std::span<const std::byte> bytes, std::size_t offset) {
  static_assert(std::is_unsigned_v<T>);
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | (static_cast<T>(bytes[offset + i]) << (8 * i)));
  }
  return value;
}

/// True when `count` bytes starting at `offset` lie within `size`, without overflow.
constexpr bool within(std::uint64_t offset, std::uint64_t count, std::uint64_t size) {
  return offset <= size && count <= size - offset;
}

}  // namespace isthmus::detail
