#pragma once

#include <c10/core/StreamGuard.h>

#include <optional>
#include <vector>

#include "engines/torch/cuda_lane.h"
#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Runs a call on a stream that belongs to the calling thread. The call keeps its place in the
/// order of the thread's current stream, and the host does not wait.
///
/// A thread whose current stream is not the device's default stream, which all threads share, keeps
/// its current stream.
class CallerStream {
 public:
  explicit CallerStream(Device device);
  CallerStream(const CallerStream&) = delete;
  CallerStream& operator=(const CallerStream&) = delete;
  /// Keeps the order also without `hand_over` (after an error): the inputs may be in use.
  ~CallerStream();

  /// Ends the call: later work on the thread's current stream may use the outputs.
  void hand_over(const std::vector<Tensor>& outputs);

 private:
  void join();

  CudaLane* lane_ = nullptr;  ///< null: the call runs on the current stream
  std::optional<c10::cuda::CUDAStream> shared_;
  std::optional<c10::StreamGuard> on_lane_;
};

}  // namespace isthmus::torch_engine
