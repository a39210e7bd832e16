#include "core/choice.h"

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
bool tuned(const LoadOptions& options, const Tuning& tuning) {
  return options.engine == "auto" && options.artifact.empty() && tuning.best.has_value();
}

/// Artifacts to try, in order.
std::vector<const Artifact*> candidates(const Manifest& manifest, const LoadOptions& options,
                                        const Tuning& tuning) {
  std::vector<const Artifact*> found;
  for (const Artifact& artifact : manifest.artifacts)
    if (options.artifact.empty() || options.artifact == artifact.name) found.push_back(&artifact);
  std::stable_partition(found.begin(), found.end(),
                        [](const Artifact* a) { return a->precision == "fp32"; });
  if (tuned(options, tuning))
    std::stable_partition(found.begin(), found.end(),
                          [&](const Artifact* a) { return a->name == tuning.best->artifact; });
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

/// Says why this one, in a sentence.
void explain(Choice& choice, const LoadOptions& options, const Tuning& tuning, bool measured,
             const std::string& refusals) {
  const std::string& engine = choice.engine_name;
  if (options.engine != "auto" || !options.artifact.empty()) {
    choice.reason = options.engine == "auto" ? "the artifact was asked for; the first engine that "
                                               "runs it"
                                             : "the engine was asked for";
  } else if (measured && choice.artifact->name == tuning.best->artifact &&
             engine == tuning.best->engine) {
    choice.threads = tuning.best->threads;
    choice.reason = "the fastest of " + std::to_string(tuning.best->compared) +
                    " that were measured on this machine (tuning.json, " + tuning.best->created +
                    ")";
  } else {
    choice.reason = "the first of the bundle's artifacts that an engine here runs";
    if (measured)
      choice.reason += "; " + tuning.best->artifact + " on " + tuning.best->engine +
                       " was measured to be the fastest, and cannot run:" + refusals;
    else
      choice.reason += tuning.note.empty() ? "; `isthmus tune` measures which is the fastest"
                                           : "; " + tuning.note;
  }
}

}  // namespace

Choice choose(const Manifest& manifest, const LoadOptions& options, Device device,
              const Tuning& tuning) {
  const std::vector<const Artifact*> artifacts = candidates(manifest, options, tuning);
  if (artifacts.empty()) {
    std::vector<std::string> names;
    for (const Artifact& artifact : manifest.artifacts) names.push_back(artifact.name);
    throw InvalidInput("artifact \"" + options.artifact + "\" is not in the bundle \"" +
                       manifest.name + "\"; it holds: " + joined(names));
  }
  require_device(artifacts, device);
  const bool automatic = options.engine == "auto";
  std::vector<std::string> engines =
      automatic ? engine_names(options.engine_path) : std::vector<std::string>{options.engine};
  const bool measured = tuned(options, tuning);
  if (measured)
    std::stable_partition(engines.begin(), engines.end(),
                          [&](const std::string& name) { return name == tuning.best->engine; });

  std::string refusals;
  std::string trust;
  const auto refuse = [&](const std::string& who, const std::string& why) {
    refusals += "\n  " + who + ": " + why;
  };
  for (const Artifact* artifact : artifacts) {
    if (!contains(artifact->devices, name(device.type))) {
      refuse(artifact->name, "is not for " + std::string(name(device.type)));
      continue;
    }
    if (const std::string why = trust_refusal(*artifact, options.trust); !why.empty()) {
      trust = why;
      refuse(artifact->name, why);
      continue;
    }
    for (const std::string& engine_name : engines) {
      // A named engine that is not there is the caller's mistake and said as it is.
      if (!automatic) (void)open_engine(engine_name, options.engine_path);
      try {
        Engine& engine = open_engine(engine_name, options.engine_path);
        // Cheap questions first: only an engine that fits opens its runtime.
        if (!contains(engine.formats(), artifact->format)) {
          if (!automatic)
            refuse(artifact->name + " on " + engine_name,
                   "the engine runs " + joined(engine.formats()) + ", not " + artifact->format);
          continue;
        }
        if (const auto reason = engine.can_run(*artifact, options)) {
          refuse(artifact->name + " on " + engine_name, *reason);
          continue;
        }
        if (const std::string reason = engine.info().unavailable; !reason.empty()) {
          refuse(artifact->name + " on " + engine_name, reason);
          continue;
        }
        Choice choice{artifact, &engine, engine_name, "", 0};
        explain(choice, options, tuning, measured, refusals);
        return choice;
      } catch (const EngineUnavailable& error) {
        refuse(artifact->name + " on " + engine_name, error.what());
      }
    }
  }
  if (!trust.empty()) throw BundleError(trust);
  throw EngineUnavailable("no engine on this machine can run the bundle \"" + manifest.name +
                          "\" (engines: " + joined(engines) + ")" +
                          (refusals.empty() ? ": none runs its formats; install isthmus with the "
                                              "engine that does"
                                            : ":" + refusals));
}

const Artifact* likely_artifact(const Manifest& manifest, const LoadOptions& options,
                                Device device, const Tuning& tuning) {
  for (const Artifact* artifact : candidates(manifest, options, tuning))
    if (contains(artifact->devices, name(device.type)) &&
        trust_refusal(*artifact, options.trust).empty())
      return artifact;
  return nullptr;
}

}  // namespace isthmus
