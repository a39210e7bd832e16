#include "core/scan/code_lexer.h"

namespace isthmus::detail {
namespace {

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Reads the source in one pass.
class CodeLexer {
 public:
  explicit CodeLexer(std::string_view source) : source_(source) {}

  Lexed run() {
    while (at_ < source_.size() && !lexed_.fault) step();
    return std::move(lexed_);
  }

 private:
  void step() {
    const char c = source_[at_];
    if (c == '\n') {
      push(Token::Kind::kNewline, at_, at_ + 1);
      ++line_;
      line_start_ = at_;
    } else if (c == ' ' || c == '\t') {
      ++at_;
    } else if (c == '#') {
      skip_comment();
    } else if (is_letter(c)) {
      std::size_t end = at_;
      while (end < source_.size() && (is_letter(source_[end]) || is_digit(source_[end]))) ++end;
      push(Token::Kind::kName, at_, end);
    } else if (is_digit(c) || (c == '.' && is_digit(peek(1)))) {
      push(Token::Kind::kNumber, at_, end_of_number());
    } else if (c == '"' || c == '\'') {
      lex_string(c);
    } else if (c == '\\') {
      fail("a backslash outside a string");
    } else if (c < 0x20 || c == 0x7f) {
      fail("a control or non-ASCII character outside a string");
    } else {
      push(Token::Kind::kSymbol, at_, at_ + 1);
    }
  }

  // LibTorch parses type comments, so they are not skipped.
  void skip_comment() {
    if (source_.substr(at_).starts_with("# type:")) return fail("a type comment");
    while (at_ < source_.size() && source_[at_] != '\n') ++at_;
  }

  // Never longer than LibTorch's number, so that a name which follows it is seen.
  std::size_t end_of_number() const {
    std::size_t end = at_;
    const auto digits = [&] {
      while (end < source_.size() && is_digit(source_[end])) ++end;
    };
    digits();
    if (end < source_.size() && source_[end] == '.') {
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      std::size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
        ++exponent;
      }
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        end = exponent;
        digits();
      }
    }
    if (end < source_.size() && source_[end] == 'j') ++end;
    return end;
  }

  void lex_string(char quote) {
    if (peek(1) == quote && peek(2) == quote) return fail("a string in triple quotes");
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) {
      if (source_[end] == '\\') ++end;
      if (end >= source_.size() || source_[end] == '\n') return fail("a string without an end");
      ++end;
    }
    if (end >= source_.size()) return fail("a string without an end");
    push(Token::Kind::kString, at_ + 1, end);
    at_ = end + 1;
  }

  void push(Token::Kind kind, std::size_t begin, std::size_t end) {
    lexed_.tokens.push_back(
        {kind, source_.substr(begin, end - begin), line_, static_cast<int>(begin - line_start_)});
    at_ = end;
  }

  void fail(const char* what) {
    lexed_.fault = std::string(what) + ", which no archive that torch writes holds";
    lexed_.fault_line = line_;
  }

  [[nodiscard]] char peek(std::size_t ahead) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  std::string_view source_;
  std::size_t at_ = 0;
  std::size_t line_start_ = 0;
  int line_ = 1;
  Lexed lexed_;
};

}  // namespace

Lexed lex_code(std::string_view source) {
  return CodeLexer(source).run();
}

}  // namespace isthmus::detail
