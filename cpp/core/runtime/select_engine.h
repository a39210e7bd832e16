#pragma once

#include <string>

#include "core/bundle/proofs.h"
#include "core/bundle/tuning.h"
#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/options.h"

namespace isthmus {

/// The artifact and engine that `Model::load` uses.
struct EngineSelection {
  const Artifact* artifact = nullptr;
  Engine* engine = nullptr;
  std::string engine_name;
  std::string reason;  ///< why it was selected
  int threads = 0;     ///< the number of threads that was measured to be the fastest; 0: unknown
  ProofKey key;
  std::optional<Proofs::Verdict> verdict;  ///< nullopt: the engine was never tried like this
};

/// Selects an artifact and an engine. A named artifact or engine is never replaced by another one.
/// "auto" takes what `isthmus tune` measured to be the fastest on this machine. Without that, or
/// when it cannot run, it takes the first artifact in the manifest's order (full precision before
/// reduced) that an engine here can run, with engines in alphabetical order.
///
/// An engine that failed on the goldens is not taken, and neither is one without a verdict when
/// `LoadOptions::unproven` is kRefuse. kAllow takes both, "auto" one that failed only when nothing
/// else is left. Without goldens nothing can be proven:
/// kProve then takes an engine that was asked for, or that is the only one that can run.
/// @throws InvalidInput (no such artifact), DeviceUnavailable, BundleError (trust),
///         EngineUnavailable with every refusal.
EngineSelection select_engine(const Manifest& manifest, const LoadOptions& options, Device device,
                              const Tuning& tuning = {}, const Proofs& proofs = {});

/// Returns the artifact that `select_engine` will select if the runtime of its engine is available,
/// without opening a runtime; nullptr when there is none.
const Artifact* likely_artifact(const Manifest& manifest, const LoadOptions& options, Device device,
                                const Tuning& tuning = {}, const Proofs& proofs = {});

}  // namespace isthmus
