#include "core/bundle/proofs.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/files/file_io.h"
#include "core/files/sha256.h"
#include "isthmus/machine.h"

namespace isthmus {
namespace {

using nlohmann::json;

constexpr const char* kFile = "proofs.json";
constexpr const char* kFormat = "isthmus-proofs";
constexpr int kVersion = 1;
constexpr std::uint64_t kMaxBytes = 1 << 20;
constexpr std::size_t kMaxEntries = 500;  ///< the oldest are dropped

std::string key_of_this_machine() {
  static const std::string key = machine_key(this_machine());
  return key;
}

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&time, &utc);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

json to_json(const EngineProof& proof) {
  json values = json::object();
  for (const auto& [input, range] : proof.values)
    values[input] = {{"min", range.min}, {"max", range.max}};
  json result{{"engine", proof.engine},
              {"device", proof.device},
              {"runtime", proof.runtime},
              {"passed", proof.passed},
              {"reason", proof.reason}};
  if (!proof.values.empty()) result["values"] = std::move(values);
  if (!proof.unproven.empty()) result["unproven"] = proof.unproven;
  return result;
}

/// Returns the text of the file; nullopt when there is none. @throws detail::IoError.
std::optional<std::string> read_text(const std::filesystem::path& root) {
  if (symlink_status(root / kFile).type() == std::filesystem::file_type::not_found)
    return std::nullopt;
  const detail::Buffer text = detail::Root(root).read(kFile, {.at_most = kMaxBytes, .exactly = {}});
  return std::string(reinterpret_cast<const char*>(text.data.get()), text.size);
}

/// Parses the file. @throws detail::JsonError when it is damaged or from a newer isthmus.
json parse_document(const std::string& text) {
  json document = detail::parse_json(text);
  const detail::JsonReader reader(document, "");
  if (reader.at("format").text() != kFormat) reader.at("format").fail(kFormat);
  (void)reader.at("format_version").integer(1, kVersion);
  (void)reader.at("proofs").list();
  return document;
}

/// Returns the document on disk, which another process may have changed since it was read; a new
/// one when there is none or it is damaged.
json current_document(const std::filesystem::path& root) {
  try {
    if (const auto text = read_text(root)) return parse_document(*text);
  } catch (const std::exception&) {  // it is replaced
  }
  return {{"format", kFormat}, {"format_version", kVersion}, {"proofs", json::array()}};
}

/// Returns true when both verdicts are about the same machine, artifact, engine and options.
bool about_the_same(const json& older, const json& newer) {
  for (const char* key : {"machine", "sha256", "engine", "device", "runtime", "options"})
    if (!older.is_object() || !older.contains(key) || older[key] != newer[key]) return false;
  return true;
}

}  // namespace

namespace detail {

std::set<std::string> input_names(const Manifest& manifest) {
  std::set<std::string> names;
  for (const Signature& method : manifest.methods)
    for (const ValueSpec& input : method.inputs) names.insert(input.name);
  return names;
}

EngineProof parse_proof(const JsonReader& json, const std::set<std::string>& inputs) {
  EngineProof proof{.engine = json.at("engine").name(),
                    .device = json.at("device").choice({"cpu", "cuda"}),
                    .runtime = json.at("runtime").text(),
                    .passed = json.at("passed").boolean()};
  if (const auto reason = json.find("reason")) proof.reason = reason->text();
  const auto members_of = [&](const char* key) {
    std::vector<std::pair<std::string, JsonReader>> members;
    if (const auto found = json.find(key)) members = found->members();
    for (const auto& [name, member] : members)
      if (!inputs.contains(name)) member.fail("the name of an input as the key");
    return members;
  };
  for (const auto& [name, range] : members_of("values")) {
    const std::int64_t low = range.at("min").integer(INT64_MIN, INT64_MAX);
    proof.values[name] = {low, range.at("max").integer(low, INT64_MAX)};
  }
  for (const auto& [name, kinds] : members_of("unproven"))
    for (const JsonReader& kind : kinds.list()) proof.unproven[name].push_back(kind.name());
  return proof;
}

}  // namespace detail

Proofs::Proofs(const Bundle& bundle) : bundle_(bundle) {
  try {
    read();
  } catch (const std::exception& error) {
    here_.clear();
    note_ = std::string(kFile) + " cannot be read and is not used: " + error.what();
  }
}

void Proofs::read() {
  const auto text = read_text(bundle_->root());
  if (!text) return;
  const json document = parse_document(*text);
  const auto inputs = detail::input_names(bundle_->manifest());
  const std::string machine = key_of_this_machine();
  for (const detail::JsonReader& item : detail::JsonReader(document, "").at("proofs").list()) {
    if (item.at("machine").text() != machine) continue;
    const std::string artifact = item.at("sha256").text();
    // The verdict on an artifact that has changed since may name other inputs.
    if (std::none_of(bundle_->manifest().artifacts.begin(), bundle_->manifest().artifacts.end(),
                     [&](const Artifact& candidate) { return digest_of(candidate) == artifact; }))
      continue;
    here_.push_back({artifact, item.at("options").text(), item.at("created").text(),
                     detail::parse_proof(item, inputs)});
  }
}

std::string Proofs::digest_of(const Artifact& artifact) const {
  std::string text;
  for (const FileEntry& file : artifact.files) text += file.sha256 + "\n";
  if (bundle_)
    for (const auto* goldens : {&bundle_->manifest().goldens, &bundle_->manifest().specials})
      for (const Golden& golden : *goldens) text += golden.file.sha256 + "\n";
  return detail::sha256_hex(std::as_bytes(std::span(text)));
}

std::optional<Proofs::Verdict> Proofs::find(const Artifact& artifact, const ProofKey& key) const {
  const auto about = [&](const EngineProof& proof) {
    return proof.engine == key.engine && proof.device == key.device && proof.runtime == key.runtime;
  };
  if (!here_.empty()) {
    const std::string digest = digest_of(artifact);
    for (auto entry = here_.rbegin(); entry != here_.rend(); ++entry)
      if (entry->artifact == digest && entry->options == key.options && about(entry->proof))
        return Verdict{entry->proof, "on this machine, " + entry->created + " (" + kFile + ")"};
  }
  if (!key.options.empty()) return std::nullopt;
  for (const EngineProof& proof : artifact.proofs)
    if (about(proof)) return Verdict{proof, "at export"};
  return std::nullopt;
}

bool Proofs::only_failed(const Artifact& artifact, const std::string& engine,
                         const std::string& device) const {
  bool failed = false;
  bool passed = false;
  const auto count = [&](const EngineProof& proof) {
    if (proof.engine == engine && proof.device == device) (proof.passed ? passed : failed) = true;
  };
  std::for_each(artifact.proofs.begin(), artifact.proofs.end(), count);
  const std::string digest = here_.empty() ? std::string() : digest_of(artifact);
  for (const Entry& entry : here_)
    if (entry.artifact == digest && entry.options.empty()) count(entry.proof);
  return failed && !passed;
}

std::string Proofs::add(const Artifact& artifact, const ProofKey& key, EngineProof proof) {
  const std::string digest = digest_of(artifact);
  const std::string created = now();
  json entry = to_json(proof);
  here_.push_back({digest, key.options, created, std::move(proof)});
  if (!bundle_) return "";
  entry["artifact"] = artifact.name;
  entry["created"] = created;
  entry["machine"] = key_of_this_machine();
  entry["options"] = key.options;
  entry["sha256"] = digest;
  try {
    json document = current_document(bundle_->root());
    json kept = json::array();
    for (json& older : document["proofs"])
      if (!about_the_same(older, entry)) kept.push_back(std::move(older));
    if (kept.size() >= kMaxEntries)
      kept.erase(
          kept.begin(),
          std::next(kept.begin(), static_cast<std::ptrdiff_t>(kept.size() - kMaxEntries + 1)));
    kept.push_back(std::move(entry));
    document["proofs"] = std::move(kept);
    const std::string text = document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
    const auto bytes = std::as_bytes(std::span(text));
    detail::write_file(bundle_->root() / kFile, std::array{bytes}, {.sync = false});
  } catch (const std::exception& error) {
    return std::string(kFile) + " cannot be written (" + error.what() + ")";
  }
  return "";
}

}  // namespace isthmus
