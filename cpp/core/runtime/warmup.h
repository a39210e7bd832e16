#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/model.h"

namespace isthmus {

/// Repeats each golden that the manifest lists for warm-up, on a fork of its own, until calls are
/// steady, the last three within 1.3 times the fastest, and then, for up to 100 ms, until they get
/// no faster: the last three within 1.1. At most 25 calls or 3 s a shape. An executable that
/// prepares for shapes is shown one golden of every shape that there is,
/// and prepares once its calls are steady. Ends early, between two calls, when `stop` becomes
/// true.
/// @throws ExecutionError when the model fails on its own golden.
std::vector<WarmupReport> warm_up(const Bundle& bundle, Executable& executable, Device device,
                                  const std::atomic<bool>& stop);

}  // namespace isthmus
