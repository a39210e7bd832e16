#pragma once

#include <c10/core/Allocator.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <type_traits>
#include <utility>

namespace isthmus::torch_engine {

/// The share of the caching allocator that belongs to one recording: what is allocated while it is
/// made comes from there and is given to nobody else as long as this lives.
class PrivatePool {
 public:
  explicit PrivatePool(c10::cuda::CUDAStream stream);
  PrivatePool(const PrivatePool&) = delete;
  PrivatePool& operator=(const PrivatePool&) = delete;
  ~PrivatePool();

  /// Later allocations come from where they always do.
  void close();

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t id_;
  bool open_ = true;
};

/// A graph ready to be launched, with its memory.
class RecordedGraph {
 public:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const noexcept { (void)cudaGraphExecDestroy(graph); }
  };
  using Exec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy>;

  RecordedGraph(std::unique_ptr<PrivatePool> pool, Exec exec)
      : pool_(std::move(pool)), exec_(std::move(exec)) {}

  void launch(c10::cuda::CUDAStream stream) const;

 private:
  std::unique_ptr<PrivatePool> pool_;  ///< outlives the graph that writes to it
  Exec exec_;
};

/// Held alone while anything is recorded: CUDA lets nobody wait for the device meanwhile, and who
/// tries spoils the recording. Those of ours who wait for it share this.
std::shared_mutex& recording_mutex();

/// Records what a stream is given instead of running it, from construction to `finish`. Ends in the
/// destructor too: whatever goes wrong in between, stream and allocator are left as they were.
///
/// Not at::cuda::CUDAGraph: where the recorded work fails, that one leaves the allocator in the
/// middle of a capture and the generators of random numbers too, for the whole process. Generators
/// take no part here, so that random operators fail instead of being recorded.
class CudaRecording {
 public:
  /// The stream must be the thread's current one, and not a default stream.
  explicit CudaRecording(c10::cuda::CUDAStream stream);
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;
  ~CudaRecording();

  /// @throws c10::Error when the work could not be recorded, ExecutionError when it could but would
  /// read or write memory of the host, which nobody keeps until the replay.
  [[nodiscard]] std::unique_ptr<RecordedGraph> finish();

 private:
  std::unique_lock<std::shared_mutex> alone_;
  c10::cuda::CUDAStream stream_;
  std::unique_ptr<PrivatePool> pool_;  ///< closes, in the destructor, after the recording has ended
  bool recording_ = false;
};

}  // namespace isthmus::torch_engine
