#pragma once

#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// A copy on another device (the same tensor when it is there already). To the CPU it waits for the
/// data; from the CPU it is queued on the thread's current stream by way of page-locked memory, and
/// the caller's memory is free again at once.
Tensor transfer_to(const Tensor& tensor, Device device);

}  // namespace isthmus::torch_engine
