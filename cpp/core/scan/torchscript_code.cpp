#include "core/scan/torchscript_code.h"

#include <array>
#include <cctype>
#include <charconv>
#include <utility>
#include <vector>

#include "core/scan/operator_table.h"

// How the importer of TorchScript resolves a name (seen by experiment and in its public sources):
//   torch.NAME              the operator aten::NAME
//   ops.NS.NAME             the operator NS::NAME
//   __torch__.a.b.NAME      a class or function in code/__torch__/a/b.py, or a class that a library
//                           registered as torch.classes.NS.NAME
//   CONSTANTS.cN            a constant
//   value.NAME              an attribute or a method; where there is none, the operator aten::NAME
//   getattr(value, "NAME")  the same
// Anything else is a local name or one of a few built-in functions. All of these values can be
// assigned to other names. Therefore a name that could become an operator must be a pure one even
// where it is not called, and `torch`, `ops` and `__torch__` may only precede a full name.

namespace isthmus::detail {
namespace {

constexpr std::size_t kMaxFindings = 1000;  // of each sort
// LibTorch's parser and compiler recurse. These limits are far above any module's needs, and far
// below what the stack allows.
constexpr std::size_t kMaxNesting = 300;
constexpr int kMaxOperators = 300;
constexpr int kMaxColumn = 600;

const std::unordered_set<std::string_view> kKeywords{
    "and",  "as",   "assert", "break",  "class",  "continue", "def", "del",
    "elif", "else", "for",    "global", "if",     "import",   "in",  "is",
    "not",  "or",   "pass",   "raise",  "return", "while",    "with"};

// Built-in functions and special forms of the compiler. They compute or print.
const std::unordered_set<std::string_view> kCallables{
    "abs", "all", "annotate", "any", "awaitable", "bin", "bool", "chr", "complex", "dict", "divmod",
    "enumerate", "float", "fork", "hash", "hex", "int", "isinstance", "iter", "len", "list", "max",
    "min", "oct", "ord", "pow", "print", "range", "reversed", "round", "set", "sorted", "str",
    "sum", "super", "tuple", "unchecked_cast", "uninitialized", "zip",
    // Types with arguments in parentheses, such as Dict(str, int) in old archives.
    "Dict", "Enum", "Exception", "Interface", "List", "Module", "ModuleInterface", "NamedTuple",
    "Optional", "Tuple", "Union"};

// Attributes that the compiler knows, and methods of LibTorch's packed weights.
const std::unordered_set<std::string_view> kAttributes{
    "H",        "T",        "__call__", "__class__", "__enter__",    "__exit__", "__getstate__",
    "__init__", "__iter__", "__len__",  "__new__",   "__setstate__", "__str__",  "bfloat16",
    "bool",     "byte",     "cdouble",  "cfloat",    "char",         "done",     "double",
    "dtype",    "float",    "half",     "int",       "is_cuda",      "long",     "mH",
    "mT",       "name",     "ndim",     "pack",      "shape",        "short",    "tolist",
    "type",     "unpack",   "value"};

bool is_identifier(std::string_view text) {
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0])) != 0) return false;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_') return false;
  }
  return true;
}

class CodeScanner {
 public:
  CodeScanner(const Lexed& lexed, const std::string& path, ScanState& state)
      : tokens_(lexed.tokens), path_(path), state_(state) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const bool bare = tokens_[i].kind == Token::Kind::kName && !before(i).is('.');
      if (bare && !after(i).is('(') && !after(i).is('.')) locals_.insert(tokens_[i].text);
    }
  }

  void run() {
    std::size_t i = 0;
    while (i < tokens_.size()) {
      const Token& token = tokens_[i];
      if (token.kind == Token::Kind::kName) {
        const bool first = i > 0 && tokens_[i - 1].kind == Token::Kind::kNewline;
        if (first && token.column == 0) counts_.assign(1, 0);
        if (first && counts_.size() == 1 && token.column > kMaxColumn) {
          refuse(token, "blocks are nested too deeply", "code");
        }
        i = scan_name(i);
      } else {
        if (token.kind == Token::Kind::kSymbol) scan_symbol(i);
        ++i;
      }
    }
  }

 private:
  // Newlines are skipped: in brackets they are spaces, and they do not change what a name means.
  [[nodiscard]] std::size_t skip_newlines(std::size_t i) const {
    while (i < tokens_.size() && tokens_[i].kind == Token::Kind::kNewline) ++i;
    return i;
  }
  [[nodiscard]] const Token& at(std::size_t i) const {
    static const Token kEnd;
    return i < tokens_.size() ? tokens_[i] : kEnd;
  }
  [[nodiscard]] const Token& after(std::size_t i) const { return at(skip_newlines(i + 1)); }
  [[nodiscard]] const Token& before(std::size_t i) const {
    static const Token kStart;
    while (i > 0 && tokens_[i - 1].kind == Token::Kind::kNewline) --i;
    return i > 0 ? tokens_[i - 1] : kStart;
  }

  [[nodiscard]] std::string where(const Token& token) const {
    return path_ + ":" + std::to_string(token.line);
  }
  void refuse(const Token& token, std::string what, std::string kind = "operator") {
    state_.refuse(std::move(kind), std::move(what), where(token));
  }

  // Returns the names of a dotted chain that follows token `i`, and sets `i` to its last token.
  std::vector<std::string_view> take_chain(std::size_t& i, std::size_t most) {
    std::vector<std::string_view> names;
    while (names.size() < most) {
      const std::size_t dot = skip_newlines(i + 1);
      const std::size_t name = skip_newlines(dot + 1);
      if (!at(dot).is('.') || at(name).kind != Token::Kind::kName) break;
      names.push_back(tokens_[name].text);
      i = name;
    }
    return names;
  }

  // Judges the name at `i`, and returns the index of the next token to look at.
  std::size_t scan_name(std::size_t i) {
    const Token& token = tokens_[i];
    const Token& previous = before(i);
    if (previous.is('.')) {
      judge_attribute(token.text, token);
      return i + 1;
    }
    if (previous.is_name("def") || previous.is_name("class")) return i + 1;
    if (token.text == "import") return scan_import(i);
    if (kKeywords.contains(token.text)) {
      count_depth(token);
      return i + 1;
    }
    if (token.text == "torch") return scan_torch(i);
    if (token.text == "ops") return scan_ops(i);
    if (token.text == "__torch__") return scan_definition(i);
    if (token.text == "CONSTANTS") return scan_constant(i);
    if (token.text == "getattr") return scan_getattr(i);
    if (token.text == "dtype") note_dtype(i);
    if (after(i).is('(')) judge_call(token);
    return i + 1;
  }

  // The importer ignores imports, and looks up names where they are used.
  std::size_t scan_import(std::size_t i) {
    while (i < tokens_.size() && tokens_[i].kind != Token::Kind::kNewline) ++i;
    return i;
  }

  std::size_t scan_torch(std::size_t i) {
    const Token& token = tokens_[i];
    auto names = take_chain(i, 1);
    if (names.size() == 1 && names[0] == "autograd") names = take_chain(i, 1);
    if (names.empty()) {
      refuse(token, "`torch` stands alone, so an operator could be reached under another name");
    } else {
      judge_operator("aten", names[0], token);
      if (names[0] == "device") note_device(i);
    }
    return i + 1;
  }

  std::size_t scan_ops(std::size_t i) {
    const Token& token = tokens_[i];
    const auto names = take_chain(i, 2);
    if (names.size() == 2) {
      judge_operator(names[0], names[1], token);
    } else {
      refuse(token,
             "`ops` stands without a full operator name, so an operator could be reached "
             "under another name");
    }
    return i + 1;
  }

  std::size_t scan_definition(std::size_t i) {
    const Token& token = tokens_[i];
    const auto names = take_chain(i, 64);
    std::string qualified = "__torch__";
    if (names.size() >= 4 && names[0] == "torch" && names[1] == "classes") {
      for (std::size_t n = 0; n < 4; ++n) qualified.append(".").append(names[n]);
      judge_class(qualified, where(token), state_);
      for (std::size_t n = 4; n < names.size(); ++n) judge_attribute(names[n], token);
      return i + 1;
    }
    // The importer resolves the shortest defined prefix. The rest of the chain are its attributes.
    std::size_t used = 0;
    const bool classes = names.size() >= 2 && names[0] == "torch" && names[1] == "classes";
    while (!classes && used < names.size() && !state_.definitions.qualified.contains(qualified)) {
      qualified.append(".").append(names[used++]);
    }
    if (!state_.definitions.qualified.contains(qualified)) {
      refuse(token, "`" + qualified + "` is not defined in the archive", "code");
    }
    for (; used < names.size(); ++used) judge_attribute(names[used], token);
    return i + 1;
  }

  std::size_t scan_constant(std::size_t i) {
    const Token& token = tokens_[i];
    const auto names = take_chain(i, 1);
    const bool good = names.size() == 1 && names[0].size() >= 2 && names[0][0] == 'c' &&
                      names[0].find_first_not_of("0123456789", 1) == std::string_view::npos;
    if (!good) refuse(token, "`CONSTANTS` without the number of a constant", "code");
    return i + 1;
  }

  // torch writes getattr only for attributes whose names are not identifiers, such as "0".
  std::size_t scan_getattr(std::size_t i) {
    const Token& token = tokens_[i];
    std::size_t next = skip_newlines(i + 1);
    if (!at(next).is('(')) {
      refuse(token, "`getattr` under another name", "code");
      return i + 1;
    }
    int depth = 0;
    bool second = false;
    for (; next < tokens_.size(); ++next) {
      const Token& inner = tokens_[next];
      if (inner.is('(') || inner.is('[') || inner.is('{')) ++depth;
      if ((inner.is(')') || inner.is(']') || inner.is('}')) && --depth == 0) break;
      if (depth == 1 && inner.is(',') && !second) {
        second = true;
        const Token& name = after(next);
        const bool plain =
            name.kind == Token::Kind::kString && name.text.find('\\') == std::string_view::npos;
        if (!plain) {
          refuse(token, "`getattr` without a plain name", "code");
        } else if (is_identifier(name.text)) {
          judge_attribute(name.text, token);
        }
        const std::size_t close = skip_newlines(skip_newlines(next + 1) + 1);
        if (!at(close).is(')')) refuse(token, "`getattr` with more than a name", "code");
      }
    }
    if (!second) refuse(token, "`getattr` without a plain name", "code");
    return i + 1;
  }

  void judge_call(const Token& token) {
    const std::string name(token.text);
    if (kCallables.contains(token.text) || locals_.contains(token.text)) {
      if (name == "print") state_.note("print", "prints to standard output", where(token));
      return;
    }
    // A class or function of the file itself, or a method's own name in a signature.
    if (state_.definitions.names.contains(name)) return;
    refuse(token, "`" + name + "` is called, but the archive does not define it", "code");
  }

  void judge_attribute(std::string_view name, const Token& token) {
    const std::string op = "aten::" + std::string(name);
    if (const auto effect = effect_of_operator(op); !effect.empty()) {
      refuse(token, "operator " + op + " " + std::string(effect));
      return;
    }
    if (state_.definitions.names.contains(std::string(name))) return;
    if (is_pure_operator(op)) return count(op, token);
    if (kAttributes.contains(name) || is_pure_operator("prim::" + std::string(name))) return;
    // May be a method of a class of an allowed library, whose names are unknown here.
    if (!state_.allowed_namespaces.empty()) return;
    refuse(token,
           "`." + std::string(name) +
               "` is neither defined in the archive nor an operator on the list of pure ones");
  }

  void judge_operator(std::string_view name_space, std::string_view name, const Token& token) {
    const std::string space(name_space);
    const std::string op = space + "::" + std::string(name);
    if (const auto effect = effect_of_operator(op); !effect.empty()) {
      refuse(token, "operator " + op + " " + std::string(effect));
    } else if (is_pure_operator(op)) {
      count(op, token);
    } else if (state_.allowed_namespaces.contains(space)) {
      count(op, token);
    } else if (is_torch_namespace(space)) {
      refuse(token, "operator " + op + " is not on the list of pure ones");
    } else {
      state_.result.unknown_namespaces.insert(space);
      ++state_.result.operators[op];
      refuse(token, "operator " + op + " comes from a library that is not loaded; name it with " +
                        "`--op-library lib" + space + ".so`");
    }
  }

  void count(const std::string& op, const Token& token) {
    ++state_.result.operators[op];
    if (is_random_operator(op)) {
      state_.note("random_operator", "operator " + op + " draws random numbers", where(token));
    }
  }

  // Notes the literal of torch.device("cuda:0").
  void note_device(std::size_t i) {
    const std::size_t open = skip_newlines(i + 1);
    const Token& literal = after(open);
    if (at(open).is('(') && literal.kind == Token::Kind::kString) {
      state_.note("device_literal", "device literal \"" + std::string(literal.text) + "\"",
                  where(literal));
    }
  }

  // Notes the literal of dtype=6. Types without a name here are noted by their number.
  void note_dtype(std::size_t i) {
    static constexpr std::array<std::string_view, 30> kNames{// in the order of c10::ScalarType
                                                             "uint8",           "int8",
                                                             "int16",           "int32",
                                                             "int64",           "float16",
                                                             "float32",         "float64",
                                                             "complex32",       "complex64",
                                                             "complex128",      "bool",
                                                             "qint8",           "quint8",
                                                             "qint32",          "bfloat16",
                                                             "quint4x2",        "quint2x4",
                                                             "bits1x8",         "bits2x4",
                                                             "bits4x2",         "bits8",
                                                             "bits16",          "float8_e5m2",
                                                             "float8_e4m3fn",   "float8_e5m2fnuz",
                                                             "float8_e4m3fnuz", "uint16",
                                                             "uint32",          "uint64"};
    const std::size_t equals = skip_newlines(i + 1);
    const Token& number = after(equals);
    if (!at(equals).is('=') || number.kind != Token::Kind::kNumber) return;
    const char* const end = number.text.data() + number.text.size();
    std::size_t code = 0;
    const auto parsed = std::from_chars(number.text.data(), end, code);
    const bool named = parsed.ec == std::errc() && parsed.ptr == end && code < kNames.size();
    state_.note("dtype_literal", "dtype literal " + std::string(named ? kNames[code] : number.text),
                where(number));
  }

  void scan_symbol(std::size_t i) {
    const Token& token = tokens_[i];
    const char symbol = token.text[0];
    const Token& previous = before(i);
    const bool operand = previous.kind == Token::Kind::kName ||
                         previous.kind == Token::Kind::kNumber ||
                         previous.kind == Token::Kind::kString || previous.is(')') ||
                         previous.is(']') || previous.is('}');
    switch (symbol) {
      case '(':
      case '[':
      case '{':
        if (operand) count_depth(token);  // f()()(), x[0][0][0]
        counts_.push_back(0);
        if (counts_.size() == kMaxNesting) refuse(token, "brackets are nested too deeply", "code");
        break;
      case ')':
      case ']':
      case '}':
        if (counts_.size() > 1) counts_.pop_back();
        break;
      case ',':
      case ':':
        counts_.back() = 0;
        break;
      case '@':
      case '^':
        if (!operand) refuse(token, "a Python operator or a decorator, which no C++ program has");
        [[fallthrough]];
      default:
        count_depth(token);
    }
    if (symbol == '.' && after(i).kind == Token::Kind::kString) {
      refuse(token, "an attribute that is no name", "code");
    }
  }

  // Each operator, keyword, dot, call and index may add a level to LibTorch's recursion.
  void count_depth(const Token& token) {
    if (counts_.size() == 1 && token.line != line_) counts_.back() = 0;
    line_ = token.line;
    if (++counts_.back() == kMaxOperators) refuse(token, "an expression is too long", "code");
  }

  const std::vector<Token>& tokens_;
  const std::string& path_;
  ScanState& state_;
  std::unordered_set<std::string_view> locals_;
  std::vector<int> counts_{0};  // operators since the last comma, for each open bracket
  int line_ = 0;                // of the last operator
};

}  // namespace

void ScanState::refuse(std::string kind, std::string what, std::string where) {
  if (++refusals > kMaxFindings) return;
  result.findings.push_back({std::move(what), std::move(where), true, std::move(kind)});
}

void ScanState::note(std::string kind, std::string what, std::string where) {
  if (++notes > kMaxFindings) return;
  result.findings.push_back({std::move(what), std::move(where), false, std::move(kind)});
}

void ScanState::finish() {
  const auto add = [&](std::size_t count, const char* sort, bool refused) {
    if (count > kMaxFindings)
      result.findings.push_back(
          {std::to_string(count - kMaxFindings) + " further " + sort + " are not listed", "archive",
           refused, "limit"});
  };
  add(notes, "notes", false);
  add(refusals, "refusals", true);
}

void collect_definitions(const Lexed& lexed, const std::string& module, Definitions& definitions) {
  const auto& tokens = lexed.tokens;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    const Token& token = tokens[i];
    const Token& next = tokens[i + 1];
    if ((token.is_name("class") || token.is_name("def")) && next.kind == Token::Kind::kName) {
      definitions.names.emplace(next.text);
      if (token.column == 0) definitions.qualified.insert(module + "." + std::string(next.text));
    }
    const bool first = i == 0 || tokens[i - 1].kind == Token::Kind::kNewline;
    if (first && token.kind == Token::Kind::kName && (next.is(':') || next.is('='))) {
      definitions.names.emplace(token.text);
    }
    // __annotations__["class"] = ...: an attribute that cannot be written as a name.
    if (first && token.is_name("__annotations__") && next.is('[') && i + 2 < tokens.size() &&
        tokens[i + 2].kind == Token::Kind::kString) {
      definitions.names.emplace(tokens[i + 2].text);
    }
  }
}

void scan_code(const Lexed& lexed, const std::string& path, ScanState& state) {
  if (lexed.fault) {
    state.refuse("code", *lexed.fault, path + ":" + std::to_string(lexed.fault_line));
  }
  CodeScanner(lexed, path, state).run();
}

void judge_class(std::string_view qualified, const std::string& where, ScanState& state) {
  constexpr std::string_view kClasses = "__torch__.torch.classes.";
  const std::string name(qualified);
  if (!qualified.starts_with(kClasses)) {
    if (!state.definitions.qualified.contains(name)) {
      state.refuse("pickle", "the class " + name + " is not defined in the archive", where);
    }
    return;
  }
  // LibTorch's own classes for packed weights. Its other classes open sockets, run threads, ...
  static const std::unordered_set<std::string_view> kPacked{"mkldnn", "quantized", "rnn", "sparse",
                                                            "xnnpack"};
  const std::string_view rest = qualified.substr(kClasses.size());
  const std::string space(rest.substr(0, rest.find('.')));
  if (kPacked.contains(space) || rest == "profiler._RecordFunction") return;
  if (state.allowed_namespaces.contains(space)) return;
  static const std::unordered_set<std::string_view> kRemote{"c10d", "dist_c10d", "dist_rpc"};
  if (kRemote.contains(space)) {
    state.refuse("operator",
                 "the class torch.classes." + std::string(rest) + " talks to other processes",
                 where);
    return;
  }
  state.result.unknown_namespaces.insert(space);
  state.refuse("operator",
               "the class torch.classes." + std::string(rest) +
                   " comes from a library that is not loaded; name it with `--op-library lib" +
                   space + ".so`",
               where);
}

}  // namespace isthmus::detail
