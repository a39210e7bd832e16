#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace isthmus::detail {

/// A token of the Python syntax in which TorchScript archives store their code.
struct Token {
  enum class Kind : std::uint8_t {
    kName,
    kNumber,
    kString,   ///< `text` is the content of the quotes, with its escapes
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

/// The tokens, and the first construct that torch never writes into an archive. From there on, this
/// lexer and LibTorch's could differ, and code could hide in an apparent string or comment.
struct Lexed {
  std::vector<Token> tokens;
  std::optional<std::string> fault;
  int fault_line = 0;
};

/// Splits code into tokens, up to the first fault. The tokens refer to `source`.
Lexed lex_code(std::string_view source);

}  // namespace isthmus::detail
