#include "core/manifest.h"

#include <algorithm>
#include <set>

#include "core/file_io.h"
#include "core/json_reader.h"
#include "core/manifest_tree.h"

namespace isthmus {
namespace {

using Json = JsonReader::Json;

std::map<std::string, std::string> texts(const JsonReader& reader) {
  std::map<std::string, std::string> result;
  reader.fields([&](const std::string& key, const JsonReader& value) {
    result[key] = value.json().is_string() ? value.text() : value.json().dump();
  });
  return result;
}

FileEntry file_entry(const JsonReader& reader) {
  FileEntry entry;
  entry.path = reader.at("path").text();
  if (const auto fault = detail::path_fault(entry.path))
    reader.at("path").fail("path \"" + entry.path + "\": " + *fault);
  entry.size = static_cast<std::uint64_t>(reader.at("size").integer(0));
  entry.sha256 = reader.at("sha256").text();
  const bool hex = entry.sha256.size() == 64 &&
                   entry.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!hex)
    reader.at("sha256").fail("expected 64 lower-case hexadecimal digits, got \"" + entry.sha256 +
                             "\"");
  return entry;
}

std::vector<FileEntry> file_entries(const JsonReader& reader) {
  std::vector<FileEntry> entries;
  reader.items([&](const JsonReader& item) { entries.push_back(file_entry(item)); });
  return entries;
}

ValueKind value_kind(const JsonReader& reader) {
  const std::string text = reader.text();
  if (text == "tensor") return ValueKind::kTensor;
  if (text == "int") return ValueKind::kInteger;
  if (text == "float") return ValueKind::kFloating;
  if (text == "bool") return ValueKind::kBoolean;
  reader.fail("unknown kind \"" + text + "\"; expected tensor, int, float or bool");
}

DType scalar_dtype(ValueKind kind, DType otherwise) {
  switch (kind) {
    case ValueKind::kInteger:
      return DType::kInt64;
    case ValueKind::kFloating:
      return DType::kFloat64;
    case ValueKind::kBoolean:
      return DType::kBool;
    case ValueKind::kTensor:
      break;
  }
  return otherwise;
}

using Dims = std::map<std::string, DimRange, std::less<>>;

Dim dim_of(const JsonReader& reader, const Dims& dims, bool output) {
  if (reader.json().is_string()) {
    const std::string name = reader.text();
    if (!dims.contains(name)) reader.fail("dimension \"" + name + "\" is not listed in \"dims\"");
    return {name, -1};
  }
  if (reader.json().is_null()) {
    if (!output) reader.fail("an input's size cannot be unknown");
    return {};
  }
  return {"", reader.integer(0)};
}

ValueSpec value_spec(const JsonReader& reader, const Dims& dims, bool output) {
  ValueSpec spec;
  spec.name = reader.at("name").text();
  if (spec.name.empty()) reader.at("name").fail("expected a name, got an empty string");
  spec.kind = value_kind(reader.at("kind"));
  const std::string dtype = reader.at("dtype").text();
  const auto parsed = parse_dtype(dtype);
  if (!parsed) reader.at("dtype").fail("unknown dtype \"" + dtype + "\"");
  spec.dtype = *parsed;
  if (scalar_dtype(spec.kind, spec.dtype) != spec.dtype)
    reader.at("dtype").fail("dtype \"" + dtype + "\" does not go with kind \"" +
                            reader.at("kind").text() + "\"");
  const JsonReader shape = reader.at("shape");
  if (!shape.json().is_null()) {
    spec.shape.emplace();
    shape.items([&](const JsonReader& dim) { spec.shape->push_back(dim_of(dim, dims, output)); });
    if (spec.shape->size() > 64) shape.fail("more than 64 dimensions");
  }
  if (spec.kind != ValueKind::kTensor && (!spec.shape || !spec.shape->empty()))
    shape.fail("a scalar has the shape []");
  spec.optional = reader.has("optional") && reader.at("optional").boolean();
  return spec;
}

std::vector<ValueSpec> value_specs(const JsonReader& reader, const Dims& dims, bool output) {
  std::vector<ValueSpec> specs;
  reader.items([&](const JsonReader& item) {
    specs.push_back(value_spec(item, dims, output));
    for (std::size_t i = 0; i + 1 < specs.size(); ++i)
      if (specs[i].name == specs.back().name)
        item.fail("the name \"" + specs.back().name + "\" is used twice");
  });
  return specs;
}

Signature method(const JsonReader& reader, const Dims& dims) {
  Signature signature;
  signature.method = reader.at("name").text();
  signature.dims = dims;
  signature.inputs = value_specs(reader.at("inputs"), dims, false);
  signature.outputs = value_specs(reader.at("outputs"), dims, true);
  reader.at("args").items(
      [&](const JsonReader& item) { signature.args.push_back(read_tree(item)); });
  reader.at("kwargs").items([&](const JsonReader& item) {
    if (item.array_size() != 2) item.fail("expected a pair of name and tree");
    signature.kwargs.emplace_back(item.at(std::size_t{0}).text(),
                                  read_tree(item.at(std::size_t{1})));
  });
  signature.returns = read_tree(reader.at("returns"));
  check_leaves(signature, reader);
  return signature;
}

Dims dimensions(const JsonReader& reader) {
  Dims dims;
  reader.fields([&](const std::string& name, const JsonReader& range) {
    if (name.empty()) range.fail("a dimension needs a name");
    const DimRange read{range.at("min").integer(0), range.at("max").integer(0)};
    if (read.min > read.max) range.fail("min is larger than max");
    dims.emplace(name, read);
  });
  return dims;
}

std::vector<std::string> names(const JsonReader& reader) {
  std::vector<std::string> result;
  reader.items([&](const JsonReader& item) { result.push_back(item.text()); });
  return result;
}

/// A text that must be one of a few.
std::string one_of(const JsonReader& reader, std::initializer_list<const char*> allowed) {
  const std::string text = reader.text();
  std::string list;
  for (const char* word : allowed) {
    if (text == word) return text;
    list += (list.empty() ? "" : ", ") + std::string(word);
  }
  reader.fail("unknown value \"" + text + "\"; expected one of " + list);
}

Artifact artifact(const JsonReader& reader) {
  Artifact result;
  result.name = reader.at("name").text();
  result.format = reader.at("format").text();
  result.device = one_of(reader.at("device"), {"cpu", "cuda"});
  result.devices = names(reader.at("devices"));
  result.precision = reader.at("precision").text();
  result.trust = one_of(reader.at("trust"), {"data", "graph", "native"});
  result.convention = one_of(reader.at("convention"), {"flat", "structured"});
  result.strategy = reader.at("strategy").text();
  result.files = file_entries(reader.at("files"));
  if (result.files.empty()) reader.at("files").fail("expected at least one file");
  result.requires_versions = texts(reader.at("requires"));
  if (reader.has("op_libraries"))
    reader.at("op_libraries").items([&](const JsonReader& item) {
      result.op_libraries.push_back({item.at("namespace").text(), item.at("library").text()});
    });
  if (reader.has("operators"))
    reader.at("operators").fields([&](const std::string& name, const JsonReader& count) {
      result.operators[name] = count.integer(0);
    });
  reader.at("tolerances").fields([&](const std::string& name, const JsonReader& item) {
    result.tolerances[name] = {item.at("atol").magnitude(), item.at("rtol").magnitude()};
  });
  if (reader.has("state")) result.state = names(reader.at("state"));
  return result;
}

Golden golden(const JsonReader& reader, const Manifest& manifest) {
  Golden result;
  result.name = reader.at("name").text();
  result.file = file_entry(reader.at("file"));
  reader.at("dims").fields([&](const std::string& name, const JsonReader& size) {
    result.dims[name] = size.integer(0);
  });
  reader.at("steps").items([&](const JsonReader& item) {
    const std::string method = item.at("method").text();
    if (std::none_of(manifest.methods.begin(), manifest.methods.end(),
                     [&](const Signature& s) { return s.method == method; }))
      item.fail("the method \"" + method + "\" is not listed in \"methods\"");
    result.steps.push_back({method});
  });
  if (result.steps.empty()) reader.at("steps").fail("expected at least one step");
  return result;
}

/// Names of things must be unique in their list.
template <typename Items, typename Name>
void require_unique(const JsonReader& reader, const Items& items, Name name) {
  std::set<std::string> seen;
  for (const auto& item : items)
    if (!seen.insert(name(item)).second)
      reader.fail("the name \"" + name(item) + "\" is used twice");
}

void cross_check(const JsonReader& root, const Manifest& manifest) {
  require_unique(root.at("methods"), manifest.methods, [](const Signature& s) { return s.method; });
  require_unique(root.at("artifacts"), manifest.artifacts, [](const Artifact& a) { return a.name; });
  require_unique(root.at("goldens"), manifest.goldens, [](const Golden& g) { return g.name; });
  std::set<std::string> outputs;
  for (const Signature& signature : manifest.methods)
    for (const ValueSpec& spec : signature.outputs) outputs.insert(spec.name);
  for (const Artifact& one : manifest.artifacts)
    for (const auto& [name, tolerance] : one.tolerances)
      if (!outputs.contains(name))
        root.at("artifacts").fail("a tolerance is given for \"" + name + "\", which is no output");
  for (const std::string& name : manifest.warmup)
    if (std::none_of(manifest.goldens.begin(), manifest.goldens.end(),
                     [&](const Golden& g) { return g.name == name; }))
      root.at("warmup").fail("\"" + name + "\" is not one of the goldens");
}

}  // namespace

Manifest parse_manifest(std::span<const std::byte> bytes, const std::string& label) {
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  Json json;
  try {
    json = Json::parse(text, text + bytes.size());
  } catch (const Json::exception& error) {
    throw BundleError(label + " is not valid JSON (" + error.what() +
                      "); the bundle is damaged: copy or export it again");
  }
  const JsonReader root(json, label);
  if (!json.is_object() || !json.contains("format") || json["format"] != "isthmus-bundle")
    throw BundleError(label + " is not the manifest of a bundle: expected \"format\": "
                              "\"isthmus-bundle\"; make a bundle with `isthmus export`");
  Manifest manifest;
  const std::int64_t version = root.at("format_version").integer();
  if (version != kFormatVersion)
    throw BundleError(label + ": the bundle was written by another isthmus (format " +
                      std::to_string(version) + "), this one reads format " +
                      std::to_string(kFormatVersion) +
                      ": upgrade isthmus here, or export the bundle with this version");
  manifest.name = root.at("name").text();
  manifest.created = root.at("created").text();
  manifest.producer = texts(root.at("producer"));
  manifest.source = texts(root.at("source"));
  manifest.stateful = root.at("stateful").boolean();
  const Dims dims = dimensions(root.at("dims"));
  root.at("methods").items(
      [&](const JsonReader& item) { manifest.methods.push_back(method(item, dims)); });
  if (manifest.methods.empty()) root.at("methods").fail("expected at least one method");
  root.at("artifacts").items(
      [&](const JsonReader& item) { manifest.artifacts.push_back(artifact(item)); });
  root.at("goldens").items(
      [&](const JsonReader& item) { manifest.goldens.push_back(golden(item, manifest)); });
  root.at("noise_floor").fields([&](const std::string& name, const JsonReader& item) {
    manifest.noise_floor[name] = {item.at("max_abs").magnitude(), item.at("rms").magnitude(),
                                  item.at("method").text()};
  });
  manifest.warmup = names(root.at("warmup"));
  manifest.files = file_entries(root.at("files"));
  cross_check(root, manifest);
  return manifest;
}

}  // namespace isthmus
