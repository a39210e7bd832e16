#include "core/bundle/tuning.h"

#include "core/files/file_io.h"
#include "core/files/json_reader.h"
#include "core/text.h"
#include "isthmus/machine.h"

namespace isthmus {
namespace {

constexpr const char* kFile = "tuning.json";
constexpr std::uint64_t kMaxBytes = 1 << 20;
constexpr int kVersion = 1;
constexpr int kMaxThreads = 4096;

/// Returns why the artifact is not the one that was measured, or an empty string.
std::string changed(const Manifest& manifest, const std::string& name, const std::string& sha256) {
  for (const Artifact& artifact : manifest.artifacts)
    if (artifact.name == name)
      return artifact.files.front().sha256 == sha256
                 ? ""
                 : detail::in_quotes(name) + " has changed since";
  return "the bundle no longer has " + detail::in_quotes(name);
}

Tuning parse(const Bundle& bundle, std::string_view text, DeviceType device) {
  const auto document = detail::parse_json(text);
  const detail::JsonReader json(document, "");
  if (json.at("format").text() != "isthmus-tuning" ||
      json.at("format_version").integer(1, INT64_MAX) > kVersion)
    return {{}, "", std::string(kFile) + " was written by another isthmus; tune again"};
  const std::string key = machine_key(this_machine());
  for (const detail::JsonReader& entry : json.at("machines").list()) {
    if (entry.at("machine").text() != key || entry.at("device").text() != name(device)) continue;
    Tuning tuning;
    tuning.created = entry.at("created").text();
    for (const detail::JsonReader& item : entry.at("ranking").list()) {
      Tuned tuned{item.at("artifact").name(), item.at("engine").name(),
                  static_cast<int>(item.at("threads").integer(0, kMaxThreads))};
      const std::string why = changed(bundle.manifest(), tuned.artifact, item.at("sha256").text());
      if (!why.empty())
        return {{}, "", std::string(kFile) + " is not used: " + why + "; tune again"};
      tuning.ranking.push_back(std::move(tuned));
    }
    return tuning;
  }
  return {{}, "", std::string(kFile) + " knows other machines; run `isthmus tune` here"};
}

}  // namespace

Tuning read_tuning(const Bundle& bundle, DeviceType device) {
  try {
    if (symlink_status(bundle.root() / kFile).type() == std::filesystem::file_type::not_found)
      return {};
    const detail::Buffer text =
        detail::Root(bundle.root()).read(kFile, {.at_most = kMaxBytes, .exactly = {}});
    return parse(bundle, {reinterpret_cast<const char*>(text.data.get()), text.size}, device);
  } catch (const std::exception& error) {
    return {{}, "", std::string(kFile) + " cannot be read and is not used: " + error.what()};
  }
}

}  // namespace isthmus
