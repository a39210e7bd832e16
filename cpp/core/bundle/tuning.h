#pragma once

#include <string>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/device.h"

namespace isthmus {

/// One way to run the bundle that `isthmus tune` proved and measured on a machine like this one.
struct Tuned {
  std::string artifact;
  std::string engine;
  int threads = 0;
};

/// tuning.json beside the manifest: a hint, never a contract.
struct Tuning {
  std::vector<Tuned> ranking;  ///< the fastest first; each way of running once
  std::string created;         ///< ISO 8601, UTC
  std::string note;            ///< why a file that is there is not used; empty otherwise
};

/// Reads tuning.json for this machine and device type. What is absent, damaged, of another machine,
/// or of artifacts that have changed since is not used; nothing is thrown.
Tuning read_tuning(const Bundle& bundle, DeviceType device);

}  // namespace isthmus
