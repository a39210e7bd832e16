#pragma once

#include <c10/core/Allocator.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <type_traits>
#include <utility>

namespace isthmus::torch_engine {

/// The private pool of the caching allocator for one recording. Memory that is allocated during the
/// recording comes from the pool, and is not reused as long as the pool lives.
class PrivatePool {
 public:
  explicit PrivatePool(c10::cuda::CUDAStream stream);
  PrivatePool(const PrivatePool&) = delete;
  PrivatePool& operator=(const PrivatePool&) = delete;
  ~PrivatePool();

  /// Ends the use of the pool: later allocations come from the allocator's common pools.
  void close();

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t id_;
  bool open_ = true;
};

/// A graph ready to be launched, and its memory.
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

/// A mutex that is held exclusively during a recording and shared while waiting for the device:
/// waiting for the device during a recording would invalidate it.
std::shared_mutex& recording_mutex();

/// Records the work of a stream instead of running it, from construction to `finish`. The
/// destructor also ends the recording, so that an error leaves stream and allocator as they were.
///
/// at::cuda::CUDAGraph is not used: when the recorded work fails, it leaves the allocator and the
/// random number generators of the process in the middle of a capture. Generators are not
/// registered here, so that random operators fail instead of being recorded.
class CudaRecording {
 public:
  /// The stream must be the thread's current one, and not a default stream.
  explicit CudaRecording(c10::cuda::CUDAStream stream);
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;
  ~CudaRecording();

  /// @throws c10::Error when the work could not be recorded; ExecutionError when the graph would
  /// read or write memory of the host, which may be freed before a replay.
  [[nodiscard]] std::unique_ptr<RecordedGraph> finish();

 private:
  std::unique_lock<std::shared_mutex> alone_;
  c10::cuda::CUDAStream stream_;
  std::unique_ptr<PrivatePool>
      pool_;  ///< closed after the recording has ended, also by the destructor
  bool recording_ = false;
};

}  // namespace isthmus::torch_engine
