#pragma once

#include <optional>
#include <string>

#include "isthmus/bundle.h"
#include "isthmus/device.h"

namespace isthmus {

/// What `isthmus tune` found fastest, among all that verified, on a machine like this one.
struct Tuned {
  std::string artifact;
  std::string engine;
  int threads = 0;
  std::string created;       ///< ISO 8601, UTC
  std::int64_t compared = 0; ///< how many candidates were measured
};

/// tuning.json beside the manifest: a hint, never a contract.
struct Tuning {
  std::optional<Tuned> best;
  std::string note;  ///< why a file that is there is not used; empty otherwise
};

/// Reads tuning.json for this machine and device type. What is absent, damaged, of another machine,
/// or of artifacts that have changed since is not used; nothing is thrown.
Tuning read_tuning(const Bundle& bundle, DeviceType device);

}  // namespace isthmus
