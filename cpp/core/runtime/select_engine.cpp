#include "core/runtime/select_engine.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

std::string list_text(const std::vector<std::string>& words) {
  return words.empty() ? "none" : detail::joined(words);
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Returns true when the measured ranking decides.
bool uses_tuning(const LoadOptions& options) {
  return options.engine == "auto" && options.artifact.empty();
}

std::vector<std::string> engines_to_try(const LoadOptions& options) {
  if (options.engine == "auto") return engine_names(options.engine_path);
  return {options.engine};
}

/// Returns the artifacts to try, in order.
std::vector<const Artifact*> artifacts_to_try(const Manifest& manifest,
                                              const LoadOptions& options) {
  std::vector<const Artifact*> artifacts;
  for (const Artifact& artifact : manifest.artifacts)
    if (options.artifact.empty() || options.artifact == artifact.name)
      artifacts.push_back(&artifact);
  // A program of torch.export can be checked, and native code cannot: without TorchScript it is
  // what native code gives way to.
  const auto has = [&](std::string_view format) {
    return std::any_of(artifacts.begin(), artifacts.end(),
                       [&](const Artifact* artifact) { return artifact->format == format; });
  };
  const bool native_last = has("exported") && !has("torchscript");
  const auto place = [&](const Artifact* artifact) {
    return std::pair(artifact->precision != "fp32", native_last && artifact->format == "aoti");
  };
  std::stable_sort(
      artifacts.begin(), artifacts.end(),
      [&](const Artifact* left, const Artifact* right) { return place(left) < place(right); });
  return artifacts;
}

/// Returns why the trust that is given is too little for the artifact, or an empty string.
std::string trust_refusal(const Artifact& artifact, Trust trust) {
  if (trust >= parse_trust(artifact.trust)) return {};
  return "artifact \"" + artifact.name + "\" needs trust \"" + artifact.trust + "\", and only \"" +
         std::string(name(trust)) +
         "\" is given; if you trust where the bundle came from, load it with trust \"" +
         artifact.trust + "\" (--trust " + artifact.trust + ")";
}

void require_device(const std::vector<const Artifact*>& artifacts, Device device) {
  std::vector<std::string> devices;
  for (const Artifact* artifact : artifacts) {
    if (contains(artifact->devices, name(device.type))) return;
    for (const std::string& type : artifact->devices)
      if (!contains(devices, type)) devices.push_back(type);
  }
  throw DeviceUnavailable("the bundle holds nothing that may run on " + to_string(device) +
                          ": its artifacts are for " + list_text(devices) +
                          "; export again with device=\"" + std::string(name(device.type)) +
                          "\", or mend the hazards that `isthmus inspect` lists");
}

/// One artifact on one engine.
struct Candidate {
  const Artifact* artifact = nullptr;
  std::string engine;
  const Tuned* tuned = nullptr;  ///< null: not measured here
};

/// Returns the candidates in order: the measured ones, the fastest first, then every artifact on
/// every engine.
std::vector<Candidate> candidates_of(const std::vector<const Artifact*>& artifacts,
                                     const std::vector<std::string>& engines,
                                     const LoadOptions& options, const Tuning& tuning) {
  std::vector<Candidate> candidates;
  const auto known = [&](const Artifact* artifact, const std::string& engine) {
    return std::any_of(candidates.begin(), candidates.end(), [&](const Candidate& candidate) {
      return candidate.artifact == artifact && candidate.engine == engine;
    });
  };
  if (uses_tuning(options))
    for (const Tuned& tuned : tuning.ranking)
      for (const Artifact* artifact : artifacts)
        if (artifact->name == tuned.artifact && !known(artifact, tuned.engine))
          candidates.push_back({artifact, tuned.engine, &tuned});
  for (const Artifact* artifact : artifacts)
    for (const std::string& engine : engines)
      if (!known(artifact, engine)) candidates.push_back({artifact, engine, nullptr});
  // What serves all sizes comes before what serves some of them.
  if (uses_tuning(options)) {
    const auto last = std::find_if(candidates.rbegin(), candidates.rend(), [](const auto& each) {
      return each.artifact->precision == "fp32" && each.artifact->sizes.empty();
    });
    std::stable_partition(candidates.begin(), last.base(),
                          [](const auto& each) { return each.artifact->sizes.empty(); });
  }
  return candidates;
}

/// Returns why the candidate was selected.
std::string explain(const Candidate& candidate, const LoadOptions& options, const Tuning& tuning) {
  if (options.engine != "auto") return "the engine was asked for";
  if (!options.artifact.empty()) return "the artifact was asked for; the first engine that runs it";
  if (candidate.tuned != nullptr) {
    const auto place = candidate.tuned - tuning.ranking.data();
    return (place == 0 ? "the fastest" : "number " + std::to_string(place + 1)) + " of " +
           std::to_string(tuning.ranking.size()) +
           " that were measured on this machine (tuning.json, " + tuning.created + ")" +
           (place == 0 ? "" : "; those before cannot run with these options, or not at every size");
  }
  return "the first of the bundle's artifacts that an engine here runs; " +
         (tuning.note.empty() ? "`isthmus tune` measures which is the fastest" : tuning.note);
}

/// Returns the caller's options that may change answers, as "optimize=freeze, precision=bf16".
std::string options_text(const LoadOptions& options, const Engine& engine) {
  std::map<std::string, std::string> counted;
  if (options.optimize != Optimize::kAuto) counted["optimize"] = name(options.optimize);
  for (const auto& [key, value] : options.engine_options)
    if (engine.changes_answers(key)) counted[key] = value;
  return detail::joined(counted,
                        [](const auto& option) { return option.first + "=" + option.second; });
}

/// Returns why an engine is not taken for what is known about it on the goldens; empty when it is.
std::string proof_refusal(const std::optional<Proofs::Verdict>& verdict, const ProofKey& key,
                          const LoadOptions& options) {
  if (options.unproven == Unproven::kAllow) return "";
  const std::string with = key.runtime + (key.options.empty() ? "" : " and " + key.options);
  if (verdict && !verdict->proof.passed)
    return "it does not give the model's answers with " + with + " (tried " + verdict->origin +
           "): " + verdict->proof.reason +
           "; take another engine, or this one as it is with unproven \"allow\" (--unproven "
           "allow); `isthmus-run verify` tries it again";
  if (verdict || options.unproven == Unproven::kProve) return "";
  return "it is not proven with " + with +
         ", and unproven is \"refuse\"; prove it here with "
         "`isthmus-run verify BUNDLE --engine " +
         key.engine + "`";
}

}  // namespace

EngineSelection select_engine(const Manifest& manifest, const LoadOptions& options, Device device,
                              const Tuning& tuning, const Proofs& proofs) {
  const std::vector<const Artifact*> artifacts = artifacts_to_try(manifest, options);
  if (artifacts.empty()) {
    std::vector<std::string> names;
    for (const Artifact& artifact : manifest.artifacts) names.push_back(artifact.name);
    throw InvalidInput("artifact \"" + options.artifact + "\" is not in the bundle \"" +
                       manifest.name + "\"; it holds: " + list_text(names));
  }
  require_device(artifacts, device);
  const bool automatic = options.engine == "auto";
  const std::vector<std::string> engines = engines_to_try(options);

  std::string refusals;
  std::string trust;
  bool only_trust = true;                   // nothing but trust refused a candidate
  std::vector<EngineSelection> unprovable;  // there are no goldens to prove them on
  std::optional<EngineSelection>
      failed;  // the first one that may be taken when nothing else is left
  const auto refuse = [&](const std::string& who, const std::string& why) {
    const std::string line = "\n  " + who + ": " + why;
    if (refusals.find(line) == std::string::npos) refusals += line;
  };
  for (const Candidate& candidate : candidates_of(artifacts, engines, options, tuning)) {
    const Artifact& artifact = *candidate.artifact;
    if (!contains(artifact.devices, name(device.type))) {
      refuse(artifact.name, "is not for " + std::string(name(device.type)));
      continue;
    }
    // The error about a named engine that is missing is passed on as it is.
    if (!automatic) (void)open_engine(candidate.engine, options.engine_path);
    const std::string who = artifact.name + " on " + candidate.engine;
    try {
      Engine& engine = open_engine(candidate.engine, options.engine_path);
      // The cheap checks come first, so that only an engine that fits opens its runtime.
      if (!contains(engine.formats(), artifact.format)) {
        if (!automatic)
          refuse(who,
                 "the engine runs " + list_text(engine.formats()) + ", not " + artifact.format);
        continue;
      }
      if (const std::string why = trust_refusal(artifact, options.trust); !why.empty()) {
        trust = why;
        refuse(artifact.name, why);
        continue;
      }
      if (const auto reason = engine.can_run(artifact, options)) {
        only_trust = false;
        refuse(who, *reason);
        continue;
      }
      if (const std::string reason = engine.info().unavailable; !reason.empty()) {
        only_trust = false;
        refuse(who, reason);
        continue;
      }
      EngineSelection selected{&artifact,
                               &engine,
                               candidate.engine,
                               explain(candidate, options, tuning),
                               candidate.tuned == nullptr ? 0 : candidate.tuned->threads,
                               {candidate.engine, std::string(name(device.type)),
                                engine.info().runtime, options_text(options, engine)},
                               std::nullopt};
      selected.verdict = proofs.find(artifact, selected.key);
      if (const std::string why = proof_refusal(selected.verdict, selected.key, options);
          !why.empty()) {
        only_trust = false;
        refuse(who, why);
        continue;
      }
      if (automatic && selected.verdict && !selected.verdict->proof.passed) {
        if (!failed) failed = std::move(selected);
        continue;
      }
      if (automatic && !selected.verdict && options.unproven == Unproven::kProve &&
          manifest.goldens.empty()) {
        only_trust = false;
        refuse(who, "the bundle has no goldens to prove it on; ask for it by name (--engine " +
                        candidate.engine + ")");
        unprovable.push_back(std::move(selected));
        continue;
      }
      return selected;
    } catch (const EngineUnavailable& error) {
      only_trust = false;
      refuse(who, error.what());
    }
  }
  if (failed) return std::move(*failed);
  if (unprovable.size() == 1) return std::move(unprovable.front());
  if (!trust.empty() && only_trust) throw BundleError(trust);
  throw EngineUnavailable("no engine on this machine can run the bundle \"" + manifest.name +
                          "\" (engines: " + list_text(engines) + ")" +
                          (refusals.empty() ? ": none runs its formats; install isthmus with the "
                                              "engine that does"
                                            : ":" + refusals));
}

const Artifact* likely_artifact(const Manifest& manifest, const LoadOptions& options, Device device,
                                const Tuning& tuning, const Proofs& proofs) {
  for (const Candidate& candidate : candidates_of(artifacts_to_try(manifest, options),
                                                  engines_to_try(options), options, tuning)) {
    if (!contains(candidate.artifact->devices, name(device.type)) ||
        !trust_refusal(*candidate.artifact, options.trust).empty() ||
        (options.unproven != Unproven::kAllow &&
         proofs.only_failed(*candidate.artifact, candidate.engine, std::string(name(device.type)))))
      continue;
    try {
      if (contains(open_engine(candidate.engine, options.engine_path).formats(),
                   candidate.artifact->format))
        return candidate.artifact;
    } catch (const EngineUnavailable&) {
      continue;  // select_engine reports it
    }
  }
  return nullptr;
}

}  // namespace isthmus
