#include "core/bundle/manifest.h"

#include <algorithm>
#include <set>
#include <string>

#include "core/bundle/manifest_signature.h"
#include "core/bundle/methods.h"
#include "core/bundle/proofs.h"
#include "core/files/file_io.h"
#include "core/files/json_reader.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

using TextMap = std::map<std::string, std::string>;

TextMap parse_texts(const JsonReader& json) {
  TextMap texts;
  for (const auto& [key, member] : json.members()) texts[key] = member.text();
  return texts;
}

TextMap find_texts(const JsonReader& json, const char* key) {
  const auto member = json.find(key);
  return member ? parse_texts(*member) : TextMap();
}

std::string parse_digest(const JsonReader& json) {
  const std::string digest = json.text();
  const bool digits = std::all_of(digest.begin(), digest.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  if (digest.size() != 64 || !digits) json.fail("64 lower-case hex digits");
  return digest;
}

/// Reads file entries. Entries with the same path must have the same size and digests.
class FileEntries {
 public:
  FileEntry parse(const JsonReader& json) {
    FileEntry entry;
    const JsonReader path = json.at("path");
    entry.path = path.text();
    if (const auto fault = path_fault(entry.path)) {
      path.fail("a path beneath the bundle (" + *fault + ")");
    }
    if (entry.path == "manifest.json") path.fail("another file than the manifest itself");
    entry.size = static_cast<std::uint64_t>(json.at("size").integer(0, INT64_MAX));
    entry.sha256 = parse_digest(json.at("sha256"));
    if (const auto chunks = json.find("chunks")) {
      for (const JsonReader& chunk : chunks->list()) entry.chunks.push_back(parse_digest(chunk));
      const std::uint64_t count = (entry.size + kChunkBytes - 1) / kChunkBytes;
      if (entry.chunks.size() != count)
        chunks->fail(std::to_string(count) + " digests, one for each 4 MiB of the file");
    }
    const auto [known, fresh] = known_.emplace(entry.path, entry);
    if (!fresh && (known->second.size != entry.size || known->second.sha256 != entry.sha256 ||
                   known->second.chunks != entry.chunks)) {
      path.fail("the size and digests that stand elsewhere for this path");
    }
    return entry;
  }

  std::vector<FileEntry> parse_list(const JsonReader& json) {
    std::vector<FileEntry> entries;
    for (const JsonReader& item : json.list()) entries.push_back(parse(item));
    return entries;
  }

 private:
  std::map<std::string, FileEntry> known_;
};

/// Returns the names of outputs, and of the values of written inputs.
std::set<std::string> output_names(const Manifest& manifest) {
  std::set<std::string> names;
  for (const Signature& method : manifest.methods) {
    for (const ValueSpec& output : method.outputs) names.insert(output.name);
    for (const std::size_t written : method.writes)
      names.insert(written_name(method.inputs[written].name));
  }
  return names;
}

void require_output(const std::set<std::string>& outputs, const std::string& name,
                    const JsonReader& member) {
  if (!outputs.contains(name)) member.fail("the name of an output as the key");
}

std::string parse_device(const JsonReader& json) {
  return json.choice({"cpu", "cuda"});
}

// Calls `take(index, value)` for each statistic of the object. Unknown names are ignored, because a
// later version may add statistics.
template <typename Take>
void each_statistic(const JsonReader& json, Take take) {
  for (const auto& [name, member] : json.members()) {
    const auto* const known = std::find(kStatisticNames.begin(), kStatisticNames.end(), name);
    if (known != kStatisticNames.end())
      take(static_cast<std::size_t>(known - kStatisticNames.begin()), member.number_from_zero());
  }
}

ErrorStatistics parse_statistics(const JsonReader& json) {
  ErrorStatistics result;
  each_statistic(json, [&](std::size_t at, double value) { result.values[at] = value; });
  return result;
}

ErrorLimits parse_limits(const JsonReader& json) {
  ErrorLimits limits;
  if (const auto multiples = json.find("multiples"))
    each_statistic(*multiples, [&](std::size_t at, double value) { limits.multiples[at] = value; });
  if (const auto allowance = json.find("allowance"))
    limits.allowance = parse_statistics(*allowance);
  if (const auto own = json.find("own")) limits.own = parse_statistics(*own);
  return limits;
}

Artifact parse_artifact(const JsonReader& json, const DimRanges& dims,
                        const std::set<std::string>& inputs, const std::set<std::string>& outputs,
                        FileEntries& files) {
  Artifact artifact;
  artifact.name = json.at("name").name();
  artifact.format = json.at("format").name();
  artifact.device = parse_device(json.at("device"));
  for (const JsonReader& item : json.at("devices").list()) {
    artifact.devices.push_back(parse_device(item));
  }
  if (artifact.devices.empty()) json.at("devices").fail("one device type at least");
  artifact.precision = json.at("precision").name();
  artifact.trust = json.at("trust").choice({"data", "graph", "native"});
  artifact.convention = json.at("convention").choice({"flat", "structured"});
  if (const auto strategy = json.find("strategy")) artifact.strategy = strategy->text();
  artifact.files = files.parse_list(json.at("files"));
  if (artifact.files.empty()) json.at("files").fail("one file at least");
  artifact.requires_versions = find_texts(json, "requires");
  if (const auto libraries = json.find("op_libraries")) {
    for (const JsonReader& item : libraries->list()) {
      OpLibrary& library = artifact.op_libraries.emplace_back();
      library.op_namespace = item.at("namespace").name();
      library.library = item.at("library").text();
      if (const auto package = item.find("package")) library.package = package->text();
      if (const auto version = item.find("version")) library.version = version->text();
    }
  }
  if (const auto operators = json.find("operators")) {
    for (const auto& [name, count] : operators->members()) {
      artifact.operators[name] = count.integer(0, INT64_MAX);
    }
  }
  if (const auto tolerances = json.find("tolerances")) {
    for (const auto& [name, member] : tolerances->members()) {
      require_output(outputs, name, member);
      artifact.tolerances[name] = {member.at("atol").number_from_zero(),
                                   member.at("rtol").number_from_zero(), parse_limits(member)};
    }
  }
  if (const auto state = json.find("state")) {
    for (const JsonReader& item : state->list()) artifact.state.push_back(item.name());
  }
  if (const auto proofs = json.find("proofs"))
    for (const JsonReader& item : proofs->list())
      artifact.proofs.push_back(parse_proof(item, inputs));
  if (const auto sizes = json.find("sizes")) {
    artifact.sizes = parse_dims(*sizes);
    for (const auto& [name, range] : artifact.sizes)
      if (!dims.contains(name)) sizes->at(name.c_str()).fail("the name of a dimension as the key");
  }
  return artifact;
}

Golden parse_golden(const JsonReader& json, const Manifest& manifest, const DimRanges& dims,
                    FileEntries& files) {
  Golden golden;
  golden.name = json.at("name").name();
  golden.file = files.parse(json.at("file"));
  for (const auto& [name, size] : json.at("dims").members()) {
    if (!dims.contains(name)) size.fail("the name of a dimension as the key");
    golden.dims[name] = size.integer(0, INT64_MAX);
  }
  for (const JsonReader& item : json.at("steps").list()) {
    const JsonReader method = item.at("method");
    golden.steps.push_back({method.text()});
    const bool known =
        std::any_of(manifest.methods.begin(), manifest.methods.end(),
                    [&](const Signature& s) { return s.method == golden.steps.back().method; });
    if (!known) method.fail("the name of a method");
  }
  if (golden.steps.empty()) json.at("steps").fail("one step at least");
  if (const auto special = json.find("special")) {
    const auto inputs = input_names(manifest);
    for (const auto& [name, kind] : special->members()) {
      if (!inputs.contains(name)) kind.fail("the name of an input as the key");
      golden.special[name] = kind.name();
    }
  }
  return golden;
}

void check_version(const JsonReader& json) {
  if (json.at("format").text() != "isthmus-bundle") json.at("format").fail("\"isthmus-bundle\"");
  const std::int64_t version = json.at("format_version").integer(1, INT64_MAX);
  if (version <= kFormatVersion) return;
  throw JsonError("written by a newer isthmus (format " + std::to_string(version) +
                  "); this is isthmus " ISTHMUS_VERSION ", which reads format " +
                  std::to_string(kFormatVersion) +
                  ": install the isthmus that wrote it, or a newer one");
}

void parse_noise_floor(const JsonReader& json, const std::set<std::string>& outputs,
                       Manifest& manifest) {
  for (const auto& [name, member] : json.members()) {
    require_output(outputs, name, member);
    manifest.noise_floor[name] = {member.at("max_abs").number_from_zero(),
                                  member.at("rms").number_from_zero(),
                                  member.at("method").choice({"float64", "ulp", "exact"})};
  }
}

Manifest parse(std::string_view text) {
  const auto document = parse_json(text);
  const JsonReader json(document, "");
  check_version(json);
  Manifest manifest;
  FileEntries files;
  manifest.format_version = static_cast<int>(json.at("format_version").integer(1, kFormatVersion));
  manifest.name = json.at("name").name();
  if (const auto created = json.find("created")) manifest.created = created->text();
  manifest.producer = find_texts(json, "producer");
  manifest.source = find_texts(json, "source");
  if (const auto stateful = json.find("stateful")) manifest.stateful = stateful->boolean();
  const auto dims_json = json.find("dims");
  const DimRanges dims = dims_json ? parse_dims(*dims_json) : DimRanges();
  manifest.methods = parse_methods(json.at("methods"), dims);
  const auto inputs = input_names(manifest);
  const auto outputs = output_names(manifest);

  std::set<std::string> names;
  for (const JsonReader& item : json.at("artifacts").list()) {
    manifest.artifacts.push_back(parse_artifact(item, dims, inputs, outputs, files));
    if (!names.insert(manifest.artifacts.back().name).second) {
      item.at("name").fail("a name of its own");
    }
  }
  names.clear();
  if (const auto goldens = json.find("goldens")) {
    for (const JsonReader& item : goldens->list()) {
      manifest.goldens.push_back(parse_golden(item, manifest, dims, files));
      if (!names.insert(manifest.goldens.back().name).second) {
        item.at("name").fail("a name of its own");
      }
    }
  }
  if (const auto specials = json.find("specials"))
    for (const JsonReader& item : specials->list())
      manifest.specials.push_back(parse_golden(item, manifest, dims, files));
  if (const auto floor = json.find("noise_floor")) parse_noise_floor(*floor, outputs, manifest);
  if (const auto warmup = json.find("warmup")) {
    for (const JsonReader& item : warmup->list()) {
      manifest.warmup.push_back(item.text());
      if (!names.contains(manifest.warmup.back())) item.fail("the name of a golden");
    }
  }
  if (const auto others = json.find("files")) manifest.files = files.parse_list(*others);
  return manifest;
}

}  // namespace

Manifest parse_manifest(std::string_view text, std::string_view label) {
  try {
    return parse(text);
  } catch (const JsonError& error) {
    const std::string what = error.what();
    const bool newer = what.starts_with("written by a newer");
    throw BundleError(std::string(label) + ": " + what +
                      (newer ? "" : "; make the bundle again with `isthmus export` or `adopt`"));
  }
}

}  // namespace isthmus::detail
