#pragma once

#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <memory>

namespace isthmus::torch_engine {

/// A point in a stream that another stream can wait for, without the host waiting.
class CudaEvent {
 public:
  CudaEvent() = default;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent();

  /// Marks the work that the stream has been given so far, and forgets an earlier mark.
  void record(c10::cuda::CUDAStream stream);
  /// Lets later work of the stream wait for the mark; does nothing without one.
  void block(c10::cuda::CUDAStream stream) const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream outside LibTorch's pool. LibTorch keeps a workspace of cuBLAS for each stream; work
/// that is recorded on one stream and replayed on others must not share it with other work.
struct CudaLane {
  explicit CudaLane(c10::cuda::CUDAStream own) : stream(own) {}
  c10::cuda::CUDAStream stream;
  CudaEvent ready;  ///< marks earlier work on the caller's stream
  CudaEvent done;   ///< marks the work on the lane
};

/// The use of a lane. A lane is never used for the other one.
enum class LaneUse : std::uint8_t { kGraph, kCaller };

/// Exclusive use of a lane; the destructor makes the lane free for the next lease. Lanes are never
/// destroyed, because LibTorch keeps references to their streams.
class LaneLease {
 public:
  LaneLease(LaneUse use, c10::DeviceIndex device);
  LaneLease(const LaneLease&) = delete;
  LaneLease& operator=(const LaneLease&) = delete;
  ~LaneLease();

  CudaLane& operator*() const noexcept { return *lane_; }
  CudaLane* operator->() const noexcept { return lane_.get(); }

 private:
  LaneUse use_;
  std::unique_ptr<CudaLane> lane_;
};

}  // namespace isthmus::torch_engine
