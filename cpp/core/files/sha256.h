#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace isthmus::detail {

/// SHA-256 of the bytes, as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);

/// SHA-256 of bytes that come piece by piece.
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();
  void update(std::span<const std::byte> bytes);
  /// 64 lower-case hexadecimal digits; once, at the end.
  [[nodiscard]] std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace isthmus::detail
