#include "core/runtime/select_engine.h"

#include <algorithm>
#include <vector>

#include "isthmus/error.h"

namespace isthmus {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Whether the caller left the choice to what was measured.
bool is_open(const LoadOptions& options) {
  return options.engine == "auto" && options.artifact.empty();
}

std::vector<std::string> engines_to_try(const LoadOptions& options) {
  if (options.engine == "auto") return engine_names(options.engine_path);
  return {options.engine};
}

/// Artifacts to try, in order.
std::vector<const Artifact*> candidates(const Manifest& manifest, const LoadOptions& options) {
  std::vector<const Artifact*> found;
  for (const Artifact& artifact : manifest.artifacts)
    if (options.artifact.empty() || options.artifact == artifact.name) found.push_back(&artifact);
  std::stable_partition(found.begin(), found.end(),
                        [](const Artifact* a) { return a->precision == "fp32"; });
  return found;
}

/// Empty when the caller trusts the bundle as far as the artifact needs.
std::string trust_refusal(const Artifact& artifact, Trust trust) {
  const Trust needed = artifact.trust == "native"  ? Trust::kNative
                       : artifact.trust == "graph" ? Trust::kGraph
                                                   : Trust::kData;
  if (trust >= needed) return {};
  return "artifact \"" + artifact.name + "\" needs trust \"" + artifact.trust + "\", and only \"" +
         (trust == Trust::kData ? "data" : "graph") +
         "\" is given; if you trust where the bundle came from, load it with trust \"" +
         artifact.trust + "\" (--trust " + artifact.trust + ")";
}

void require_device(const std::vector<const Artifact*>& artifacts, Device device) {
  std::vector<std::string> devices;
  for (const Artifact* artifact : artifacts) {
    if (contains(artifact->devices, name(device.type))) return;
    for (const std::string& one : artifact->devices)
      if (!contains(devices, one)) devices.push_back(one);
  }
  throw DeviceUnavailable("the bundle holds nothing that may run on " + to_string(device) +
                          ": its artifacts are for " + joined(devices) +
                          "; export again with device=\"" + std::string(name(device.type)) +
                          "\", or mend the hazards that `isthmus inspect` lists");
}

/// One artifact on one engine, and what is known of it.
struct Way {
  const Artifact* artifact = nullptr;
  std::string engine;
  const Tuned* tuned = nullptr;  ///< null: not measured here
};

/// What may be chosen, in order: what was measured, the fastest first; then every artifact on every
/// engine.
std::vector<Way> ways_of(const std::vector<const Artifact*>& artifacts,
                         const std::vector<std::string>& engines, const LoadOptions& options,
                         const Tuning& tuning) {
  std::vector<Way> ways;
  const auto known = [&](const Artifact* artifact, const std::string& engine) {
    return std::any_of(ways.begin(), ways.end(), [&](const Way& way) {
      return way.artifact == artifact && way.engine == engine;
    });
  };
  if (is_open(options))
    for (const Tuned& tuned : tuning.ranking)
      for (const Artifact* artifact : artifacts)
        if (artifact->name == tuned.artifact && !known(artifact, tuned.engine))
          ways.push_back({artifact, tuned.engine, &tuned});
  for (const Artifact* artifact : artifacts)
    for (const std::string& engine : engines)
      if (!known(artifact, engine)) ways.push_back({artifact, engine, nullptr});
  return ways;
}

/// Why this one, in a sentence.
std::string explain(const Way& way, const LoadOptions& options, const Tuning& tuning) {
  if (options.engine != "auto") return "the engine was asked for";
  if (!options.artifact.empty()) return "the artifact was asked for; the first engine that runs it";
  if (way.tuned != nullptr) {
    const auto place = way.tuned - tuning.ranking.data();
    return (place == 0 ? "the fastest" : "number " + std::to_string(place + 1)) + " of " +
           std::to_string(tuning.ranking.size()) +
           " that were measured on this machine (tuning.json, " + tuning.created + ")" +
           (place == 0 ? "" : "; those before cannot run with these options");
  }
  return "the first of the bundle's artifacts that an engine here runs; " +
         (tuning.note.empty() ? "`isthmus tune` measures which is the fastest" : tuning.note);
}

}  // namespace

Choice choose(const Manifest& manifest, const LoadOptions& options, Device device,
              const Tuning& tuning) {
  const std::vector<const Artifact*> artifacts = candidates(manifest, options);
  if (artifacts.empty()) {
    std::vector<std::string> names;
    for (const Artifact& artifact : manifest.artifacts) names.push_back(artifact.name);
    throw InvalidInput("artifact \"" + options.artifact + "\" is not in the bundle \"" +
                       manifest.name + "\"; it holds: " + joined(names));
  }
  require_device(artifacts, device);
  const bool automatic = options.engine == "auto";
  const std::vector<std::string> engines = engines_to_try(options);

  std::string refusals;
  std::string trust;
  bool able = true;  ///< nothing but trust stands in the way
  const auto refuse = [&](const std::string& who, const std::string& why) {
    const std::string line = "\n  " + who + ": " + why;
    if (refusals.find(line) == std::string::npos) refusals += line;
  };
  for (const Way& way : ways_of(artifacts, engines, options, tuning)) {
    const Artifact& artifact = *way.artifact;
    if (!contains(artifact.devices, name(device.type))) {
      refuse(artifact.name, "is not for " + std::string(name(device.type)));
      continue;
    }
    // A named engine that is not there is the caller's mistake and said as it is.
    if (!automatic) (void)open_engine(way.engine, options.engine_path);
    const std::string who = artifact.name + " on " + way.engine;
    try {
      Engine& engine = open_engine(way.engine, options.engine_path);
      // Cheap questions first: only an engine that fits opens its runtime.
      if (!contains(engine.formats(), artifact.format)) {
        if (!automatic)
          refuse(who, "the engine runs " + joined(engine.formats()) + ", not " + artifact.format);
        continue;
      }
      if (const std::string why = trust_refusal(artifact, options.trust); !why.empty()) {
        trust = why;
        refuse(artifact.name, why);
        continue;
      }
      if (const auto reason = engine.can_run(artifact, options)) {
        able = false;
        refuse(who, *reason);
        continue;
      }
      if (const std::string reason = engine.info().unavailable; !reason.empty()) {
        able = false;
        refuse(who, reason);
        continue;
      }
      return {&artifact, &engine, way.engine, explain(way, options, tuning),
              way.tuned == nullptr ? 0 : way.tuned->threads};
    } catch (const EngineUnavailable& error) {
      able = false;
      refuse(who, error.what());
    }
  }
  if (!trust.empty() && able) throw BundleError(trust);
  throw EngineUnavailable("no engine on this machine can run the bundle \"" + manifest.name +
                          "\" (engines: " + joined(engines) + ")" +
                          (refusals.empty() ? ": none runs its formats; install isthmus with the "
                                              "engine that does"
                                            : ":" + refusals));
}

const Artifact* likely_artifact(const Manifest& manifest, const LoadOptions& options, Device device,
                                const Tuning& tuning) {
  for (const Way& way :
       ways_of(candidates(manifest, options), engines_to_try(options), options, tuning)) {
    if (!contains(way.artifact->devices, name(device.type)) ||
        !trust_refusal(*way.artifact, options.trust).empty())
      continue;
    try {
      if (contains(open_engine(way.engine, options.engine_path).formats(), way.artifact->format))
        return way.artifact;
    } catch (const EngineUnavailable&) {
      continue;  // `choose` tells
    }
  }
  return nullptr;
}

}  // namespace isthmus
