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

  /// Marks what the stream was given until now; an earlier mark is forgotten.
  void record(c10::cuda::CUDAStream stream);
  /// Later work of the stream waits for the mark; nothing without one.
  void block(c10::cuda::CUDAStream stream) const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream of our own, which nobody gets from LibTorch's pool. LibTorch keeps a workspace of
/// cuBLAS for each stream: work that is recorded on one stream and replayed on others must share it
/// with nobody.
struct CudaLane {
  explicit CudaLane(c10::cuda::CUDAStream own) : stream(own) {}
  c10::cuda::CUDAStream stream;
  CudaEvent ready;  ///< the work before, on the caller's stream
  CudaEvent done;   ///< the work of the lane
};

/// What a lane is for: the two never mix.
enum class LaneUse : std::uint8_t { kGraph, kCaller };

/// The right to a lane, given back by the destructor for the next one. Lanes are never destroyed:
/// LibTorch remembers their streams.
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
