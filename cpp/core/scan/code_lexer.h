#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace isthmus::detail {

/// A token of the Python syntax in which TorchScript archives keep their code.
struct Token {
  enum class Kind : std::uint8_t {
    kName,
    kNumber,
    kString,   ///< `text` is what stands between the quotes, escapes as they are
    kSymbol,   ///< one character
    kNewline,  ///< end of a line, within brackets too
  };
  Kind kind = Kind::kNewline;
  std::string_view text;
  int line = 1;
  int column = 0;

  [[nodiscard]] bool is(char symbol) const noexcept {
    return kind == Kind::kSymbol && text[0] == symbol;
  }
  [[nodiscard]] bool is_name(std::string_view name) const noexcept {
    return kind == Kind::kName && text == name;
  }
};

/// The tokens, and the first thing that no archive written by torch holds: there this lexer and
/// LibTorch's could part ways, so that code hides in what looks like a string or a comment.
struct Lexed {
  std::vector<Token> tokens;
  std::optional<std::string> fault;
  int fault_line = 0;
};

/// `source` must outlive the tokens.
Lexed lex_code(std::string_view source);

}  // namespace isthmus::detail
