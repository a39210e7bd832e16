#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/model.h"

namespace isthmus {

/// Repeats the calls of each golden in the manifest's warm-up list, on a fork of its own, until
/// they are steady: the last three take at most 1.3 times the fastest. It goes on for up to 100 ms
/// until the last three take at most 1.1 times the fastest. There are at most 25 calls, or 3 s, per
/// golden. An executable that prepares for shapes gets a golden of every shape, and prepares when
/// its calls are steady. When `stop` becomes true, the warm-up ends after the current call.
/// @throws ExecutionError when the model fails on its own golden.
std::vector<WarmupReport> warm_up(const Bundle& bundle, const Artifact& artifact,
                                  Executable& executable, Device device,
                                  const std::atomic<bool>& stop);

}  // namespace isthmus
