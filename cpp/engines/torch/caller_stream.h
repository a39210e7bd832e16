#pragma once

#include <c10/core/StreamGuard.h>

#include <optional>
#include <vector>

#include "engines/torch/cuda_lane.h"
#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Lets a call run on a stream of the calling thread's own, in its place between what the thread's
/// current stream was given before and will be given after, without the host waiting.
///
/// A thread whose current stream is not the device's default one has such a stream already: it
/// stays. Only the default stream is everybody's.
class CallerStream {
 public:
  explicit CallerStream(Device device);
  CallerStream(const CallerStream&) = delete;
  CallerStream& operator=(const CallerStream&) = delete;
  /// Without `hand_over` (an error): the inputs may be in use all the same, so order is kept.
  ~CallerStream();

  /// Ends the call: the outputs are safe on the thread's current stream.
  void hand_over(const std::vector<Tensor>& outputs);

 private:
  void join();

  CudaLane* lane_ = nullptr;  ///< null: the current stream is the thread's own
  std::optional<c10::cuda::CUDAStream> shared_;
  std::optional<c10::StreamGuard> on_lane_;
};

}  // namespace isthmus::torch_engine
