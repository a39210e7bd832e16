#include "core/bundle/manifest_signature.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "core/bundle/size_expression.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

constexpr int kMaxTreeDepth = 64;
constexpr std::size_t kMaxRank = 64;

enum class Side { kInput, kOutput };

std::shared_ptr<const SizeExpression> parse_expression(const JsonReader& json,
                                                       const DimRanges& dims) {
  std::shared_ptr<const SizeExpression> expression;
  try {
    expression = std::make_shared<const SizeExpression>(json.text());
  } catch (const InvalidInput& error) {
    json.fail(std::string("the name of a dimension, or a size such as \"past + sequence\" (") +
              error.what() + ")");
  }
  for (const std::string& name : expression->names())
    if (!dims.contains(name)) json.fail("a name that \"dims\" lists");
  return expression;
}

std::optional<std::vector<Dim>> parse_shape(const JsonReader& json, const DimRanges& dims,
                                            Side side) {
  if (json.is_null()) return std::nullopt;
  std::vector<Dim> shape;
  for (const JsonReader& size : json.list()) {
    Dim dim;
    if (size.value().is_string()) {
      dim.name = size.text();
      if (!dims.contains(dim.name)) dim.expression = parse_expression(size, dims);
    } else if (!size.is_null()) {
      dim.size = size.integer(0, INT64_MAX);
    } else if (side == Side::kInput) {
      size.fail("a size or the name of a dimension (null is for outputs only)");
    }
    shape.push_back(std::move(dim));
  }
  if (shape.size() > kMaxRank) json.fail("at most 64 dimensions");
  return shape;
}

ValueRange parse_range(const JsonReader& json, const DimRanges& dims) {
  ValueRange range{INT64_MIN, INT64_MAX};
  const JsonReader min = json.at("min");
  const JsonReader max = json.at("max");
  if (min.value().is_string())
    range.min_expression = parse_expression(min, dims);
  else
    range.min = min.integer(INT64_MIN, INT64_MAX);
  if (max.value().is_string())
    range.max_expression = parse_expression(max, dims);
  else
    range.max = max.integer(range.min, INT64_MAX);
  return range;
}

ValueSpec parse_value(const JsonReader& json, const DimRanges& dims, Side side) {
  ValueSpec spec;
  spec.name = json.at("name").name();
  const JsonReader dtype = json.at("dtype");
  const auto parsed = parse_dtype(dtype.text());
  if (!parsed) dtype.fail("a dtype such as \"float32\" or \"int64\"");
  spec.dtype = *parsed;
  spec.shape = parse_shape(json.at("shape"), dims, side);
  if (const auto optional = json.find("optional")) spec.optional = optional->boolean();

  const std::string kind = json.at("kind").choice({"tensor", "int", "float", "bool"});
  if (const auto values = side == Side::kInput ? json.find("values") : std::nullopt) {
    const bool whole = !is_floating(spec.dtype) && spec.dtype != DType::kBool;
    if (kind != "tensor" || !whole) values->fail("no \"values\" but of a tensor of integers");
    spec.values = parse_range(*values, dims);
  }
  if (kind == "tensor") return spec;
  const auto scalar = [&](ValueKind value_kind, DType carried) {
    spec.kind = value_kind;
    if (spec.dtype != carried) dtype.fail("\"" + std::string(name(carried)) + "\" for this kind");
    if (!spec.shape || !spec.shape->empty()) json.at("shape").fail("[] for a scalar");
  };
  if (kind == "int") scalar(ValueKind::kInteger, DType::kInt64);
  if (kind == "float") scalar(ValueKind::kFloating, DType::kFloat64);
  if (kind == "bool") scalar(ValueKind::kBoolean, DType::kBool);
  return spec;
}

std::vector<ValueSpec> parse_values(const JsonReader& json, const DimRanges& dims, Side side) {
  std::vector<ValueSpec> specs;
  std::set<std::string> names;
  for (const JsonReader& item : json.list()) {
    specs.push_back(parse_value(item, dims, side));
    if (!names.insert(specs.back().name).second) item.at("name").fail("a name of its own");
  }
  return specs;
}

void parse_items(const JsonReader& json, const std::set<std::string>& leaves, int depth,
                 Tree& tree);

Tree parse_tree(const JsonReader& json, const std::set<std::string>& leaves, int depth = 0) {
  if (depth > kMaxTreeDepth) json.fail("at most 64 levels of nesting");
  using Kind = Tree::Kind;
  static const std::map<std::string, Kind, std::less<>> kKinds{{"leaf", Kind::kLeaf},
                                                               {"none", Kind::kNone},
                                                               {"const", Kind::kConst},
                                                               {"list", Kind::kList},
                                                               {"tuple", Kind::kTuple},
                                                               {"dict", Kind::kDict},
                                                               {"namedtuple", Kind::kNamedTuple},
                                                               {"dataclass", Kind::kDataclass},
                                                               {"model_output", Kind::kModelOutput},
                                                               {"pytree", Kind::kPytree}};
  const JsonReader node = json.at("node");
  const auto kind = kKinds.find(node.text());
  if (kind == kKinds.end()) {
    node.fail(
        "one of \"leaf\", \"none\", \"const\", \"list\", \"tuple\", \"dict\", \"namedtuple\", "
        "\"dataclass\", \"model_output\", \"pytree\"");
  }
  Tree tree;
  tree.kind = kind->second;
  switch (tree.kind) {
    case Kind::kLeaf:
      tree.name = json.at("name").text();
      if (!leaves.contains(tree.name)) json.at("name").fail("the name of a value of this method");
      break;
    case Kind::kNone:
      break;
    case Kind::kConst:
      tree.text = json.at("value").value().dump();
      break;
    default:
      parse_items(json, leaves, depth, tree);
  }
  return tree;
}

void parse_items(const JsonReader& json, const std::set<std::string>& leaves, int depth,
                 Tree& tree) {
  for (const JsonReader& item : json.at("items").list()) {
    tree.items.push_back(parse_tree(item, leaves, depth + 1));
  }
  if (tree.kind == Tree::Kind::kList || tree.kind == Tree::Kind::kTuple) return;
  if (tree.kind != Tree::Kind::kDict) tree.type = json.at("type").name();
  const bool pytree = tree.kind == Tree::Kind::kPytree;
  if (pytree) tree.text = json.at("value").value().dump();
  for (const JsonReader& key : json.at("keys").list()) {
    if ((pytree || tree.kind == Tree::Kind::kDict) && key.value().is_number()) {
      tree.keys.emplace_back(key.integer(INT64_MIN, INT64_MAX));
    } else {
      tree.keys.emplace_back(key.text());
    }
  }
  if (tree.keys.size() != tree.items.size()) {
    json.at("keys").fail(std::to_string(tree.items.size()) + " keys, one for each item");
  }
}

std::set<std::string> names_of(const std::vector<ValueSpec>& specs) {
  std::set<std::string> names;
  for (const ValueSpec& spec : specs) names.insert(spec.name);
  return names;
}

std::vector<std::size_t> parse_writes(const JsonReader& json,
                                      const std::vector<ValueSpec>& inputs) {
  std::vector<std::size_t> writes;
  for (const JsonReader& item : json.list()) {
    std::size_t at = writes.empty() ? 0 : writes.back() + 1;
    while (at < inputs.size() && inputs[at].name != item.text()) ++at;
    if (at == inputs.size() || inputs[at].kind != ValueKind::kTensor)
      item.fail("the name of an input that is a tensor, in the order of the inputs");
    writes.push_back(at);
  }
  return writes;
}

std::vector<ServedCase> parse_served(const JsonReader& json, const DimRanges& dims,
                                     const std::vector<ValueSpec>& inputs) {
  std::vector<ServedCase> served;
  for (const JsonReader& item : json.list()) {
    ServedCase& served_case = served.emplace_back();
    if (const auto sizes = item.find("sizes")) {
      for (const auto& [name, size] : sizes->members()) {
        if (!dims.contains(name)) size.fail("the size of one of dims");
        served_case.sizes[name] = size.integer(0, INT64_MAX);
      }
    }
    for (const auto& [name, number] : item.at("numbers").members()) {
      const auto named = [&](const ValueSpec& spec) { return spec.name == name; };
      const auto input = std::find_if(inputs.begin(), inputs.end(), named);
      if (input == inputs.end() || input->kind == ValueKind::kTensor || !number.value().is_number())
        number.fail("a number, by the name of a scalar input");
      served_case.numbers[name] = number.value().get<double>();
    }
  }
  return served;
}

Signature parse_method(const JsonReader& json, const DimRanges& dims) {
  Signature signature;
  signature.method = json.at("name").name();
  signature.inputs = parse_values(json.at("inputs"), dims, Side::kInput);
  signature.outputs = parse_values(json.at("outputs"), dims, Side::kOutput);
  if (const auto writes = json.find("writes"))
    signature.writes = parse_writes(*writes, signature.inputs);
  if (const auto served = json.find("served"))
    signature.served = parse_served(*served, dims, signature.inputs);
  const auto inputs = names_of(signature.inputs);
  for (const JsonReader& item : json.at("args").list()) {
    signature.args.push_back(parse_tree(item, inputs));
  }
  std::set<std::string> keywords;
  for (const JsonReader& item : json.at("kwargs").list()) {
    const auto pair = item.list();
    if (pair.size() != 2) item.fail("a pair of a name and a tree");
    const std::string keyword = pair[0].name();
    if (!keywords.insert(keyword).second) pair[0].fail("a keyword of its own");
    signature.kwargs.emplace_back(keyword, parse_tree(pair[1], inputs));
  }
  signature.returns = parse_tree(json.at("returns"), names_of(signature.outputs));
  const auto use = [&](const std::shared_ptr<const SizeExpression>& expression) {
    if (!expression) return;
    for (const std::string& name : expression->names()) signature.dims.insert(*dims.find(name));
  };
  for (const auto* specs : {&signature.inputs, &signature.outputs}) {
    for (const ValueSpec& spec : *specs) {
      if (spec.values) {
        use(spec.values->min_expression);
        use(spec.values->max_expression);
      }
      if (!spec.shape) continue;
      for (const Dim& dim : *spec.shape) {
        use(dim.expression);
        if (!dim.name.empty() && !dim.expression) signature.dims.insert(*dims.find(dim.name));
      }
    }
  }
  return signature;
}

}  // namespace

DimRanges parse_dims(const JsonReader& json) {
  DimRanges dims;
  for (const auto& [name, range] : json.members()) {
    if (name.empty()) range.fail("a dimension with a name");
    std::int64_t low = range.at("min").integer(0, INT64_MAX);
    dims[name] = {low, range.at("max").integer(low, INT64_MAX)};
    const auto sizes = range.find("sizes");
    if (!sizes) continue;
    for (const JsonReader& size : sizes->list()) {
      dims[name].sizes.push_back(size.integer(low, dims[name].max));
      low = dims[name].sizes.back() + 1;
    }
    if (dims[name].sizes.empty()) sizes->fail("one size at least");
  }
  return dims;
}

std::vector<Signature> parse_methods(const JsonReader& json, const DimRanges& dims) {
  std::vector<Signature> methods;
  std::set<std::string> names;
  for (const JsonReader& item : json.list()) {
    methods.push_back(parse_method(item, dims));
    if (!names.insert(methods.back().method).second) item.at("name").fail("a name of its own");
  }
  if (methods.empty()) json.fail("one method at least");
  std::stable_partition(methods.begin(), methods.end(),
                        [](const Signature& method) { return method.method == "forward"; });
  return methods;
}

}  // namespace isthmus::detail
