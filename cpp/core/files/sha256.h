#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace isthmus::detail {

/// Returns the SHA-256 digest of the bytes as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);

/// Computes the SHA-256 digest of bytes that are given in pieces.
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();
  void update(std::span<const std::byte> bytes);
  /// Returns 64 lower-case hexadecimal digits. Called once, after the last `update`.
  [[nodiscard]] std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace isthmus::detail
