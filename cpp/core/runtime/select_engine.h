#pragma once

#include <string>

#include "core/bundle/tuning.h"
#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/options.h"

namespace isthmus {

/// The artifact and engine that `Model::load` takes.
struct Choice {
  const Artifact* artifact = nullptr;
  Engine* engine = nullptr;
  std::string engine_name;
  std::string reason;  ///< why this one
  int threads = 0;     ///< what was measured to be best for it; 0: no word on it
};

/// Picks by the options: a named artifact or engine is a contract. "auto" takes what `isthmus tune`
/// found fastest on this machine; without that, or where it cannot run, the first artifact in the
/// manifest's order (full precision before reduced) that some engine here can run, engines in the
/// order of their names.
/// @throws InvalidInput (no such artifact), DeviceUnavailable, BundleError (trust),
///         EngineUnavailable with every refusal.
Choice choose(const Manifest& manifest, const LoadOptions& options, Device device,
              const Tuning& tuning = {});

/// The artifact that `choose` takes when the runtime of its engine is here, told without opening
/// any runtime; nullptr when there is none.
const Artifact* likely_artifact(const Manifest& manifest, const LoadOptions& options, Device device,
                                const Tuning& tuning = {});

}  // namespace isthmus
