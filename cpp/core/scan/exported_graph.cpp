#include "core/scan/exported_graph.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "core/scan/operator_table.h"

namespace isthmus::detail {
namespace {

using Kind = ProgramValue::Kind;

constexpr std::size_t kMaxFindings = 1000;
constexpr int kMaxGraphs = 32;           // graphs inside graphs
constexpr std::int64_t kMaxCode = 1000;  // codes of dtypes, layouts and memory formats

/// Operators on sizes and other numbers, which are Python functions.
constexpr std::array<std::string_view, 29> kNumberOperators{
    "_operator.add", "_operator.and_",   "_operator.eq",     "_operator.floordiv", "_operator.ge",
    "_operator.gt",  "_operator.le",     "_operator.lshift", "_operator.lt",       "_operator.mod",
    "_operator.mul", "_operator.ne",     "_operator.neg",    "_operator.or_",      "_operator.pos",
    "_operator.pow", "_operator.rshift", "_operator.sub",    "_operator.truediv",  "math.ceil",
    "math.floor",    "math.trunc",       "torch.sym_float",  "torch.sym_int",      "torch.sym_ite",
    "torch.sym_max", "torch.sym_min",    "torch.sym_not",    "torch._sym_sqrt"};

/// Operators that take graphs, and that the engine runs.
constexpr std::array<std::string_view, 6> kGraphOperators{
    "cond", "map_impl", "scan", "while_loop", "wrap_with_autocast", "wrap_with_set_grad_enabled"};

/// Operators on the list of internal kernels that the engine does not call: it does what they say
/// itself, with checks.
constexpr std::array<std::string_view, 2> kOwnOperators{"aten::sym_constrain_range",
                                                        "aten::sym_constrain_range_for_size"};

template <std::size_t size>
bool contains(const std::array<std::string_view, size>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Returns the only member of a union of the schema.
std::pair<std::string, JsonReader> only_member(const JsonReader& value) {
  auto members = value.members();
  if (members.size() != 1) value.fail("an object with one member, the kind of the value");
  return std::move(members.front());
}

double number(const JsonReader& value) {
  if (value.value().is_number()) return value.value().get<double>();
  const std::string text = value.choice({"Infinity", "-Infinity", "NaN"});
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  return text == "Infinity" ? infinity : -infinity;
}

std::int64_t whole_number(const JsonReader& value) {
  return value.integer(std::numeric_limits<std::int64_t>::min(),
                       std::numeric_limits<std::int64_t>::max());
}

ProgramValue of_int(const JsonReader& value) {
  return {.kind = Kind::kInt, .integer = whole_number(value)};
}

ProgramValue of_float(const JsonReader& value) {
  return {.kind = Kind::kFloat, .real = number(value)};
}

ProgramValue of_bool(const JsonReader& value) {
  return {.kind = Kind::kBool, .integer = value.boolean() ? 1 : 0};
}

ProgramValue of_text(const JsonReader& value) {
  return {.kind = Kind::kText, .text = value.text()};
}

ProgramValue of_code(Kind kind, const JsonReader& value) {
  return {.kind = kind, .integer = value.integer(0, kMaxCode)};
}

ProgramValue of_device(const JsonReader& value) {
  std::string text = value.at("type").name();
  if (const auto index = value.find("index"); index && !index->is_null())
    text += ":" + std::to_string(index->integer(0, 1023));
  return {.kind = Kind::kDevice, .text = std::move(text)};
}

/// Returns the place of the user's source in a node's metadata, "model.py:13", the innermost frame
/// outside of torch; empty without one.
std::string source_of(const JsonReader& node) {
  const auto metadata = node.find("metadata");
  const auto trace = metadata ? metadata->find("stack_trace") : std::nullopt;
  if (!trace || !trace->value().is_string()) return {};
  const auto& text = trace->value().get_ref<const std::string&>();
  constexpr std::string_view kFile = "File \"";
  constexpr std::string_view kLine = "\", line ";
  std::string where;
  for (std::size_t at = text.find(kFile); at != std::string::npos; at = text.find(kFile, at)) {
    at += kFile.size();
    const std::size_t end = text.find(kLine, at);
    if (end == std::string::npos) break;
    const std::string path = text.substr(at, end - at);
    const std::size_t digits = end + kLine.size();
    const std::size_t stop = std::min(text.find_first_not_of("0123456789", digits), text.size());
    if (path.find("/torch/") == std::string::npos || where.empty())
      where = path.substr(path.rfind('/') + 1) + ":" + text.substr(digits, stop - digits);
  }
  const bool printable = std::none_of(where.begin(), where.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  return printable && where.size() < 200 ? where : std::string();
}

/// Reads one graph; names are its own, for graphs inside it have other ones.
class GraphReader {
 public:
  GraphReader(OperatorJudge& judge, GraphNames& names, int depth)
      : judge_(judge), names_(names), depth_(depth) {}

  ProgramGraph read(const JsonReader& graph) {
    ProgramGraph result;
    for (const JsonReader& input : graph.at("inputs").list())
      result.inputs.push_back(defined(input));
    for (const JsonReader& node : graph.at("nodes").list()) result.nodes.push_back(read_node(node));
    for (const JsonReader& output : graph.at("outputs").list())
      result.outputs.push_back(argument(output));
    result.slots = names_.slots.size();
    return result;
  }

 private:
  ProgramNode read_node(const JsonReader& node) {
    ProgramNode result;
    result.where = source_of(node);
    judge_.judge(node.at("target").name(), node.path(), result);
    for (const JsonReader& input : node.at("inputs").list())
      result.arguments.push_back({input.at("name").text(), argument(input.at("arg"))});
    for (const JsonReader& output : node.at("outputs").list())
      result.results.push_back(defined(output));
    return result;
  }

  /// Reads a use of values.
  ProgramValue argument(const JsonReader& reader) {
    const auto [kind, value] = only_member(reader);
    if (kind == "as_none") return {};
    if (kind == "as_tensor") return slot(value.at("name"));
    if (kind == "as_tensors")
      return list(value, [this](const JsonReader& item) { return slot(item.at("name")); });
    if (kind == "as_optional_tensor") return optional_tensor(value);
    if (kind == "as_optional_tensors")
      return list(value, [this](const JsonReader& item) { return optional_tensor(item); });
    if (kind == "as_nested_tensors")
      return list(value, [this](const JsonReader& inner) {
        return list(inner, [this](const JsonReader& item) { return slot(item.at("name")); });
      });
    if (kind == "as_sym_int" || kind == "as_sym_float" || kind == "as_sym_bool")
      return symbolic(value);
    if (kind == "as_sym_ints" || kind == "as_sym_floats" || kind == "as_sym_bools")
      return list(value, [this](const JsonReader& item) { return symbolic(item); });
    if (kind == "as_graph") return inner_graph(value);
    return constant(kind, value, reader);
  }

 public:
  static ProgramValue constant(const std::string& kind, const JsonReader& value,
                               const JsonReader& whole) {
    if (kind == "as_none") return {};
    if (kind == "as_int") return of_int(value);
    if (kind == "as_ints") return list(value, of_int);
    if (kind == "as_float") return of_float(value);
    if (kind == "as_floats") return list(value, of_float);
    if (kind == "as_bool") return of_bool(value);
    if (kind == "as_bools") return list(value, of_bool);
    if (kind == "as_string") return of_text(value);
    if (kind == "as_strings") return list(value, of_text);
    if (kind == "as_scalar_type") return of_code(Kind::kDtype, value);
    if (kind == "as_memory_format") return of_code(Kind::kMemoryFormat, value);
    if (kind == "as_layout") return of_code(Kind::kLayout, value);
    if (kind == "as_device") return of_device(value);
    if (kind == "as_complex")
      return {.kind = Kind::kComplex,
              .real = number(value.at("real")),
              .imaginary = number(value.at("imag"))};
    if (kind == "as_int_lists")
      return list(value, [](const JsonReader& inner) { return list(inner, of_int); });
    if (kind == "as_float_lists")
      return list(value, [](const JsonReader& inner) { return list(inner, of_float); });
    whole.fail("a value that C++ can hold (tensors, numbers, texts, dtypes, devices or graphs)");
  }

 private:
  template <typename Read>
  static ProgramValue list(const JsonReader& reader, Read read) {
    ProgramValue result{.kind = Kind::kList};
    for (const JsonReader& item : reader.list()) result.items.push_back(read(item));
    return result;
  }

  ProgramValue optional_tensor(const JsonReader& reader) {
    const auto [kind, value] = only_member(reader);
    if (kind == "as_none") return {};
    if (kind != "as_tensor") reader.fail("a tensor or none");
    return slot(value.at("name"));
  }

  /// Reads a number that is a value of the graph, or one that was known at the export.
  ProgramValue symbolic(const JsonReader& reader) {
    const auto [kind, value] = only_member(reader);
    return kind == "as_name" ? slot(value) : constant(kind, value, reader);
  }

  ProgramValue inner_graph(const JsonReader& reader) {
    if (depth_ == kMaxGraphs) reader.fail("graphs that are nested at most 32 deep");
    GraphNames names;
    ProgramGraph graph = GraphReader(judge_, names, depth_ + 1).read(reader.at("graph"));
    return {.kind = Kind::kGraph, .graph = std::make_shared<const ProgramGraph>(std::move(graph))};
  }

  ProgramValue slot(const JsonReader& name) const {
    const auto known = names_.slots.find(name.name());
    if (known == names_.slots.end()) name.fail("the name of a value that was defined before");
    return {.kind = Kind::kSlot, .integer = static_cast<std::int64_t>(known->second)};
  }

  ProgramValue define(const JsonReader& name) {
    const auto [entry, is_new] = names_.slots.emplace(name.name(), names_.slots.size());
    if (!is_new) name.fail("a name that no other value of the graph has");
    return {.kind = Kind::kSlot, .integer = static_cast<std::int64_t>(entry->second)};
  }

  /// Reads a definition: an input of the graph or a result of a node.
  ProgramValue defined(const JsonReader& reader) {
    const auto [kind, value] = only_member(reader);
    if (kind == "as_tensor") return define(value.at("name"));
    if (kind == "as_tensors")
      return list(value, [this](const JsonReader& item) { return define(item.at("name")); });
    if (kind == "as_sym_int" || kind == "as_sym_float" || kind == "as_sym_bool") {
      const auto [inner, name] = only_member(value);
      if (inner == "as_name") return define(name);
    }
    return constant(kind, value, reader);
  }

  OperatorJudge& judge_;
  GraphNames& names_;
  int depth_;
};

}  // namespace

void OperatorJudge::refuse(std::string kind, std::string what, std::string where) {
  if (scan_.findings.size() == kMaxFindings) {
    scan_.findings.push_back({"further refusals are not listed", "archive", true, "limit"});
  } else if (scan_.findings.size() < kMaxFindings) {
    scan_.findings.push_back({std::move(what), std::move(where), true, std::move(kind)});
  }
}

void OperatorJudge::judge(std::string_view target, const std::string& path, ProgramNode& node) {
  const std::string where = node.where.empty() ? path : node.where;
  const std::string name(target);
  constexpr std::string_view kGraphs = "torch.ops.higher_order.";
  constexpr std::string_view kOps = "torch.ops.";
  if (contains(kNumberOperators, target)) {
    const auto dot = name.rfind('.');
    node.op = name.substr(0, dot) + "::" + name.substr(dot + 1);
    return;
  }
  if (target.starts_with(kGraphs)) {
    node.op = "higher_order::" + name.substr(kGraphs.size());
    if (!contains(kGraphOperators, target.substr(kGraphs.size())))
      refuse("operator", "operator " + node.op + " is not one that the engine runs", where);
    return;
  }
  if (target.starts_with(kOps)) {
    const std::string rest = name.substr(kOps.size());
    const auto first = rest.find('.');
    const auto second = rest.find('.', std::min(first, rest.size() - 1) + 1);
    if (first != std::string::npos && second != std::string::npos &&
        rest.find('.', second + 1) == std::string::npos) {
      const std::string space = rest.substr(0, first);
      node.op = space + "::" + rest.substr(first + 1, second - first - 1);
      node.overload = rest.substr(second + 1);
      if (node.overload == "default") node.overload.clear();
      ++scan_.operators[node.op];
      return judge_torch_operator(space, node.op, where);
    }
  }
  refuse("operator", "`" + name + "` is no operator that C++ has", where);
}

void OperatorJudge::judge_torch_operator(const std::string& space, const std::string& op,
                                         const std::string& where) {
  if (contains(kOwnOperators, op) || is_pure_operator(op)) return;
  if (const auto effect = effect_of_operator(op); !effect.empty()) {
    refuse("operator", "operator " + op + " " + std::string(effect), where);
  } else if (is_torch_namespace(space)) {
    refuse("operator", "operator " + op + " is not on the list of pure ones", where);
  } else if (!allowed_namespaces_.contains(space)) {
    scan_.unknown_namespaces.insert(space);
    refuse("operator",
           "operator " + op + " comes from a library that is not loaded; name it with " +
               "`--op-library lib" + space + ".so`",
           where);
  }
}

ProgramGraph read_program_graph(const JsonReader& graph, OperatorJudge& judge, GraphNames& names) {
  return GraphReader(judge, names, 0).read(graph);
}

ProgramValue read_constant(const JsonReader& value) {
  const auto [kind, inner] = only_member(value);
  return GraphReader::constant(kind, inner, value);
}

}  // namespace isthmus::detail
