#include "engines/torch/cuda_lane.h"

#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>

#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace isthmus::torch_engine {
namespace {

struct FreeLanes {
  std::mutex mutex;
  std::map<std::pair<LaneUse, c10::DeviceIndex>, std::vector<std::unique_ptr<CudaLane>>> lanes;
};

FreeLanes& free_lanes() {
  // Leaked on purpose: threads give their lanes back when the process ends.
  static FreeLanes& instance = *new FreeLanes;  // NOLINT(cppcoreguidelines-owning-memory)
  return instance;
}

std::unique_ptr<CudaLane> new_lane(c10::DeviceIndex device) {
  const c10::DeviceGuard on_device(c10::Device(c10::kCUDA, device));
  cudaStream_t stream = nullptr;
  C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return std::make_unique<CudaLane>(c10::cuda::getStreamFromExternal(stream, device));
}

}  // namespace

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}

void CudaEvent::record(c10::cuda::CUDAStream stream) {
  const c10::DeviceGuard on_device(stream.device());
  if (event_ == nullptr) C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  C10_CUDA_CHECK(cudaEventRecord(event_, stream.stream()));
}

void CudaEvent::block(c10::cuda::CUDAStream stream) const {
  if (event_ == nullptr) return;
  const c10::DeviceGuard on_device(stream.device());
  C10_CUDA_CHECK(cudaStreamWaitEvent(stream.stream(), event_, 0));
}

LaneLease::LaneLease(LaneUse use, c10::DeviceIndex device) : use_(use) {
  FreeLanes& all = free_lanes();
  {
    const std::lock_guard lock(all.mutex);
    auto& lanes = all.lanes[{use, device}];
    if (!lanes.empty()) {
      lane_ = std::move(lanes.back());
      lanes.pop_back();
    }
  }
  if (!lane_) lane_ = new_lane(device);
}

LaneLease::~LaneLease() {
  FreeLanes& all = free_lanes();
  const auto device = lane_->stream.device_index();
  const std::lock_guard lock(all.mutex);
  all.lanes[{use_, device}].push_back(std::move(lane_));
}

}  // namespace isthmus::torch_engine
