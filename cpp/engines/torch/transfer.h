#pragma once

#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Copies a tensor to another device; returns the same tensor when it is there already. A copy to
/// the CPU waits for the data. A copy from the CPU is queued on the thread's current stream through
/// page-locked memory, and the caller may reuse its memory at once.
Tensor transfer_to(const Tensor& tensor, Device device);

}  // namespace isthmus::torch_engine
