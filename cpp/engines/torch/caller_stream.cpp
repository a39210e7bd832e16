#include "engines/torch/caller_stream.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <exception>
#include <map>

#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

CudaLane& lane_of_this_thread(c10::DeviceIndex device) {
  thread_local std::map<c10::DeviceIndex, LaneLease> lanes;
  return *lanes.try_emplace(device, LaneUse::kCaller, device).first->second;
}

}  // namespace

CallerStream::CallerStream(Device device) {
  const auto index = static_cast<c10::DeviceIndex>(device.index);
  const auto current = c10::cuda::getCurrentCUDAStream(index);
  if (current != c10::cuda::getDefaultCUDAStream(index)) return;
  CudaLane& lane = lane_of_this_thread(index);
  lane.ready.record(current);
  lane.ready.block(lane.stream);
  lane_ = &lane;
  shared_ = current;
  on_lane_.emplace(lane.stream.unwrap());
}

CallerStream::~CallerStream() {
  try {
    join();
  } catch (const std::exception&) {
    // The device has failed, and the call that ends here throws the error.
  }
}

void CallerStream::hand_over(const std::vector<Tensor>& outputs) {
  if (lane_ == nullptr) return;
  // The memory was allocated on the lane: the allocator must not reuse it while another stream
  // reads.
  for (const Tensor& output : outputs)
    if (output.defined() && output.device().is_cuda())
      c10::cuda::CUDACachingAllocator::recordStream(detail::unwrap(output).storage().data_ptr(),
                                                    *shared_);
  join();
}

void CallerStream::join() {
  if (lane_ == nullptr) return;
  CudaLane& lane = *lane_;
  lane_ = nullptr;
  on_lane_.reset();
  lane.done.record(lane.stream);
  lane.done.block(*shared_);
}

}  // namespace isthmus::torch_engine
