#pragma once

#include <string>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/device.h"

namespace isthmus {

/// An artifact and engine that `isthmus tune` has verified and measured on this kind of machine.
struct Tuned {
  std::string artifact;
  std::string engine;
  int threads = 0;  ///< intra-operator threads; 0: the runtime's default
};

/// The content of tuning.json, which is beside the manifest. It is a hint only.
struct Tuning {
  std::vector<Tuned> ranking;  ///< the fastest first
  std::string created;         ///< ISO 8601, UTC
  std::string note;            ///< why an existing file is not used; empty otherwise
};

/// Reads tuning.json for this machine and device type. Without such a file the ranking is empty. It
/// is also empty, with a note, when the file is damaged, written for other machines, or measured on
/// artifacts that have changed. Never throws.
Tuning read_tuning(const Bundle& bundle, DeviceType device);

}  // namespace isthmus
