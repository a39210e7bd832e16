#include "core/manifest_tree.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

namespace isthmus {
namespace {

constexpr int kMaxDepth = 64;

constexpr std::array<std::pair<std::string_view, Tree::Kind>, 9> kKinds{{
    {"leaf", Tree::Kind::kLeaf},
    {"none", Tree::Kind::kNone},
    {"const", Tree::Kind::kConst},
    {"list", Tree::Kind::kList},
    {"tuple", Tree::Kind::kTuple},
    {"dict", Tree::Kind::kDict},
    {"namedtuple", Tree::Kind::kNamedTuple},
    {"dataclass", Tree::Kind::kDataclass},
    {"model_output", Tree::Kind::kModelOutput},
}};

bool has_keys(Tree::Kind kind) {
  return kind == Tree::Kind::kDict || kind == Tree::Kind::kNamedTuple ||
         kind == Tree::Kind::kDataclass || kind == Tree::Kind::kModelOutput;
}

bool has_items(Tree::Kind kind) {
  return has_keys(kind) || kind == Tree::Kind::kList || kind == Tree::Kind::kTuple;
}

void check(const Tree& tree, const std::vector<ValueSpec>& specs, const char* what,
           std::set<std::string>& seen, const JsonReader& reader) {
  if (tree.kind == Tree::Kind::kLeaf) {
    if (std::none_of(specs.begin(), specs.end(),
                     [&](const ValueSpec& spec) { return spec.name == tree.name; }))
      reader.fail(std::string("the leaf \"") + tree.name + "\" is no " + what);
    if (!seen.insert(tree.name).second)
      reader.fail("the leaf \"" + tree.name + "\" stands twice");
  }
  for (const Tree& item : tree.items) check(item, specs, what, seen, reader);
}

}  // namespace

Tree read_tree(const JsonReader& reader, int depth) {
  if (depth > kMaxDepth) reader.fail("nested deeper than " + std::to_string(kMaxDepth));
  const std::string node = reader.at("node").text();
  const auto* kind = std::find_if(kKinds.begin(), kKinds.end(),
                                  [&](const auto& pair) { return pair.first == node; });
  if (kind == kKinds.end()) reader.at("node").fail("unknown node \"" + node + "\"");
  Tree tree;
  tree.kind = kind->second;
  if (tree.kind == Tree::Kind::kLeaf) tree.name = reader.at("name").text();
  if (tree.kind == Tree::Kind::kConst) tree.text = reader.at("value").json().dump();
  if (has_items(tree.kind))
    reader.at("items").items(
        [&](const JsonReader& item) { tree.items.push_back(read_tree(item, depth + 1)); });
  if (has_keys(tree.kind)) {
    if (tree.kind != Tree::Kind::kDict) tree.type = reader.at("type").text();
    reader.at("keys").items([&](const JsonReader& key) {
      if (key.json().is_string())
        tree.keys.emplace_back(key.text());
      else
        tree.keys.emplace_back(key.integer());
    });
    if (tree.keys.size() != tree.items.size())
      reader.fail("has " + std::to_string(tree.keys.size()) + " keys for " +
                  std::to_string(tree.items.size()) + " items");
  }
  return tree;
}

void check_leaves(const Signature& signature, const JsonReader& reader) {
  std::set<std::string> inputs;
  for (const Tree& tree : signature.args) check(tree, signature.inputs, "input", inputs, reader);
  for (const auto& [name, tree] : signature.kwargs)
    check(tree, signature.inputs, "input", inputs, reader);
  for (const ValueSpec& spec : signature.inputs)
    if (!inputs.contains(spec.name))
      reader.fail("the input \"" + spec.name + "\" has no place in args or kwargs");
  std::set<std::string> outputs;
  check(signature.returns, signature.outputs, "output", outputs, reader);
}

}  // namespace isthmus
