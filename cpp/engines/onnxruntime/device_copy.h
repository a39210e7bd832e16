#pragma once

#include "engines/onnxruntime/api_loader.h"
#include "isthmus/tensor.h"

namespace isthmus::onnxruntime_engine {

/// Copies a tensor between the CPU and a CUDA device, and waits for the copy. The session's
/// allocator provides device memory; the CUDA runtime that the execution provider has loaded
/// copies.
/// @throws DeviceUnavailable.
Tensor copy_to_device(const Tensor& tensor, Device device, Ort::Session& session);

/// Copies the bytes of a contiguous tensor into another one on the same CUDA device.
/// @throws DeviceUnavailable.
void copy_on_device(const Tensor& from, const Tensor& to);

/// Waits until all work on a CUDA device is done. @throws DeviceUnavailable.
void synchronize_device(Device device);

}  // namespace isthmus::onnxruntime_engine
