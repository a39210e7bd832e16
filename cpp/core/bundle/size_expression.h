#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace isthmus {

/// A size that follows from named dimensions, such as "past + sequence" or "samples // 160 + 1":
/// sums, differences, products with constants, floor divisions by positive constants, parentheses.
/// It is compiled when a manifest is read, and evaluated at each call without an allocation.
///
/// Thread safety: it never changes; all members may be called at once.
class SizeExpression {
 public:
  static constexpr std::size_t kMaxNames = 8;
  /// The sizes of `names()`, in their order; the rest is not used.
  using Sizes = std::array<std::int64_t, kMaxNames>;

  /// @throws InvalidInput with the defect of the text.
  explicit SizeExpression(std::string_view text);

  /// Returns the text as it was given.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  /// Returns the names of the dimensions, each once.
  [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }

  /// Returns the value; nullopt where it does not fit into 64 bits.
  [[nodiscard]] std::optional<std::int64_t> evaluate(const Sizes& sizes) const noexcept;

  /// Returns true when a value of the expression tells the size of the name with this index: the
  /// name is not inside a division.
  [[nodiscard]] bool solvable_for(std::size_t name) const noexcept;

  /// Returns the size of a name at which the expression has this value; nullopt where none does.
  /// @param name   index of a name for which `solvable_for` is true
  /// @param sizes  the sizes of all other names
  [[nodiscard]] std::optional<std::int64_t> solve(std::size_t name, std::int64_t value,
                                                  Sizes sizes) const noexcept;

  /// Returns a text such as "8 (past = 5, sequence = 3)".
  [[nodiscard]] std::string explain(const Sizes& sizes) const;

 private:
  class Compiler;
  static constexpr std::size_t kMaxStack = 48;
  enum class Operation : std::uint8_t { kConstant, kName, kAdd, kSubtract, kMultiply, kDivide };
  struct Step {
    Operation operation;
    std::int64_t value;  ///< the constant, the index of the name, or the divisor
  };

  explicit SizeExpression(std::vector<Step> steps);

  std::string text_;
  std::vector<std::string> names_;
  std::vector<std::int64_t> factors_;  ///< of each name; 0 where it is inside a division
  std::vector<Step> steps_;            ///< in reverse Polish order
};

}  // namespace isthmus
