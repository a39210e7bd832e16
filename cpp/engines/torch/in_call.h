#pragma once

#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <optional>

#include "engines/call_gate.h"
#include "engines/torch/thread_budget.h"
#include "isthmus/device.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {

/// Prepares the calling thread for a call of a model: passes the gate, applies the thread budget,
/// and sets inference mode and the device until it is destroyed.
class InCall {
 public:
  InCall(CallGate& gate, Device device)
      : pass_(gate), on_device_(device.is_cuda() ? std::optional(to_torch(device)) : std::nullopt) {
    join_thread_budget();
  }

 private:
  const CallGate::Pass pass_;
  const c10::InferenceMode no_gradients_;
  const c10::OptionalDeviceGuard on_device_;
};

}  // namespace isthmus::torch_engine
