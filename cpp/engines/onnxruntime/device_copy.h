#pragma once

#include "engines/onnxruntime/api_loader.h"
#include "isthmus/tensor.h"

namespace isthmus::onnxruntime_engine {

/// Copies a tensor between the CPU and a CUDA device, blocking. Device memory comes from the
/// session's own allocator, the copy from the CUDA runtime that the execution provider has loaded.
/// @throws DeviceUnavailable.
Tensor copy_to_device(const Tensor& tensor, Device device, Ort::Session& session);

/// Waits for all work on a CUDA device. @throws DeviceUnavailable.
void synchronize_device(Device device);

}  // namespace isthmus::onnxruntime_engine
