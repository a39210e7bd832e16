#include <algorithm>
#include <string>
#include <vector>

#include "core/bundle/proofs.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/verify.h"

namespace isthmus {
namespace {

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Returns what is known about an installed engine on an artifact whose format it runs.
EngineVerdict verdict_of(const Proofs& proofs, const Artifact& artifact, const std::string& engine,
                         const std::string& device, const EngineInfo& info) {
  EngineVerdict result{.artifact = artifact.name,
                       .status = "not available",
                       .origin = "",
                       .proof = {.engine = engine, .device = device, .runtime = info.runtime}};
  result.proof.reason = info.unavailable;
  if (!info.unavailable.empty()) return result;
  const auto known = proofs.find(artifact, {engine, device, info.runtime});
  result.status = !known ? "not proven" : known->proof.passed ? "passed" : "failed";
  if (!known) return result;
  result.proof = known->proof;
  result.origin = known->origin;
  return result;
}

}  // namespace

std::vector<EngineVerdict> engine_verdicts(const Bundle& bundle, std::string_view device,
                                           std::span<const std::filesystem::path> engine_path) {
  const std::string type(name(parse_device(device).type));
  const Proofs proofs(bundle);
  std::vector<EngineVerdict> verdicts;
  for (const Artifact& artifact : bundle.manifest().artifacts) {
    const std::size_t first = verdicts.size();
    for (const std::string& engine : engine_names(engine_path)) {
      if (!contains(artifact.devices, type)) break;
      try {
        Engine& opened = open_engine(engine, engine_path);
        if (contains(opened.formats(), artifact.format))
          verdicts.push_back(verdict_of(proofs, artifact, engine, type, opened.info()));
      } catch (const EngineUnavailable&) {  // `isthmus-run doctor` reports it
      }
    }
    for (const EngineProof& proof : artifact.proofs) {
      const bool shown = std::any_of(verdicts.begin() + static_cast<std::ptrdiff_t>(first),
                                     verdicts.end(), [&](const EngineVerdict& verdict) {
                                       return verdict.proof.engine == proof.engine &&
                                              verdict.proof.device == proof.device &&
                                              verdict.proof.runtime == proof.runtime;
                                     });
      if (!shown)
        verdicts.push_back({.artifact = artifact.name,
                            .status = proof.passed ? "passed" : "failed",
                            .origin = "at export",
                            .proof = proof});
    }
  }
  return verdicts;
}

}  // namespace isthmus
