#include "engines/torch/cuda_recording.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>

#include <exception>
#include <string>
#include <vector>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const noexcept { (void)cudaGraphDestroy(graph); }
};
using GraphPtr = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;

/// Tells the allocator that a recording begins or ends, where LibTorch is new enough to need it.
template <typename Allocator>
void mark(Allocator& allocator, c10::DeviceIndex device, bool begins) {
  if constexpr (requires { allocator.markCaptureBegin(device); }) {
    if (begins)
      allocator.markCaptureBegin(device);
    else
      allocator.markCaptureEnd(device);
  }
}

bool on_host(const void* memory) {
  if (memory == nullptr) return false;  // an array of the device
  cudaPointerAttributes attributes{};
  C10_CUDA_CHECK(cudaPointerGetAttributes(&attributes, memory));
  return attributes.type == cudaMemoryTypeHost || attributes.type == cudaMemoryTypeUnregistered;
}

/// Returns why the graph must not be replayed; empty when it may be.
std::string host_dependence(cudaGraph_t graph) {
  std::size_t count = 0;
  C10_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  if (count != 0) C10_CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    C10_CUDA_CHECK(cudaGraphNodeGetType(node, &type));
    if (type == cudaGraphNodeTypeHost) return "it calls a function of the host";
    if (type == cudaGraphNodeTypeMemcpy) {
      cudaMemcpy3DParms copy{};
      C10_CUDA_CHECK(cudaGraphMemcpyNodeGetParams(node, &copy));
      if (on_host(copy.srcPtr.ptr) || on_host(copy.dstPtr.ptr))
        return "it copies from or to memory of the host";
    }
    if (type == cudaGraphNodeTypeGraph) {
      cudaGraph_t child = nullptr;
      C10_CUDA_CHECK(cudaGraphChildGraphNodeGetGraph(node, &child));
      if (std::string reason = host_dependence(child); !reason.empty()) return reason;
    }
  }
  return {};
}

}  // namespace

PrivatePool::PrivatePool(c10::cuda::CUDAStream stream)
    : device_(stream.device_index()), id_(at::cuda::graph_pool_handle()) {
  c10::cuda::CUDACachingAllocator::beginAllocateToPool(
      device_, id_, [own = stream.stream()](cudaStream_t other) { return other == own; });
  mark(*c10::cuda::CUDACachingAllocator::get(), device_, true);
}

PrivatePool::~PrivatePool() {
  try {
    close();
    c10::cuda::CUDACachingAllocator::releasePool(device_, id_);
  } catch (const std::exception&) {
    // CUDA has shut down before this object, at the end of the process.
  }
}

void PrivatePool::close() {
  if (!open_) return;
  open_ = false;
  mark(*c10::cuda::CUDACachingAllocator::get(), device_, false);
  c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, id_);
}

void RecordedGraph::launch(c10::cuda::CUDAStream stream) const {
  C10_CUDA_CHECK(cudaGraphLaunch(exec_.get(), stream.stream()));
}

std::shared_mutex& recording_mutex() {
  static auto& instance = *new std::shared_mutex;  // NOLINT(cppcoreguidelines-owning-memory)
  return instance;
}

CudaRecording::CudaRecording(c10::cuda::CUDAStream stream)
    : alone_(recording_mutex()), stream_(stream), pool_(std::make_unique<PrivatePool>(stream)) {
  // Thread-local capture leaves other threads free to work on their own streams.
  C10_CUDA_CHECK(cudaStreamBeginCapture(stream_.stream(), cudaStreamCaptureModeThreadLocal));
  recording_ = true;
}

CudaRecording::~CudaRecording() {
  if (!recording_) return;
  cudaGraph_t graph = nullptr;
  (void)cudaStreamEndCapture(stream_.stream(), &graph);
  const GraphPtr dropped(graph);
  (void)cudaGetLastError();  // the error that ended the recording is being thrown already
}

std::unique_ptr<RecordedGraph> CudaRecording::finish() {
  cudaGraph_t recorded = nullptr;
  recording_ = false;
  const cudaError_t ended = cudaStreamEndCapture(stream_.stream(), &recorded);
  const GraphPtr graph(recorded);
  pool_->close();
  C10_CUDA_CHECK(ended);
  if (!graph) throw ExecutionError("nothing was recorded");
  if (const std::string reason = host_dependence(graph.get()); !reason.empty())
    throw ExecutionError(reason + ", which a replay cannot rely on");
  cudaGraphExec_t exec = nullptr;
  C10_CUDA_CHECK(
      cudaGraphInstantiateWithFlags(&exec, graph.get(), cudaGraphInstantiateFlagAutoFreeOnLaunch));
  return std::make_unique<RecordedGraph>(std::move(pool_), RecordedGraph::Exec(exec));
}

}  // namespace isthmus::torch_engine
