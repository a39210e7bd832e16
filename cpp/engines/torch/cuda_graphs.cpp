#include "engines/torch/cuda_graphs.h"

#include <c10/core/StreamGuard.h>
#include <c10/cuda/CUDAException.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "engines/torch/cuda_lane.h"
#include "engines/torch/cuda_recording.h"
#include "engines/torch/shape_bucket.h"
#include "engines/torch/tensor_convert.h"
#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

/// The number of calls on the recording's stream before it: workspaces and kernels load lazily.
constexpr int kCallsBefore = 3;

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  const at::Tensor x = to_torch(a).cpu().contiguous();
  const at::Tensor y = to_torch(b).cpu().contiguous();
  return a.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), a.nbytes()) == 0;
}

bool same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Tensor& x, const Tensor& y) { return same_bits(x, y); });
}

/// Returns the line of an error that says what happened, without the advice on debugging kernels.
std::string main_line(const std::exception& error) {
  const std::string text = error.what();
  const auto line_at = [&text](std::size_t at) {
    return text.substr(at, text.find('\n', at) - at);
  };
  for (const char* word : {"CUDA error", "RuntimeError"})
    if (const auto at = text.find(word); at != std::string::npos) return line_at(at);
  return line_at(0);
}

}  // namespace

class CudaGraphs::Graph {
 public:
  explicit Graph(c10::DeviceIndex device) : lane_(LaneUse::kGraph, device) {}
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  ~Graph() {
    try {
      // The next owner of the lane, and of the memory of the inputs, runs after the last replay.
      done_.block(lane_->stream);
    } catch (const std::exception&) {
      // CUDA has shut down before this object, at the end of the process.
    }
  }

  void record(std::span<const Tensor> inputs, const RunCall& run) {
    lane_->ready.record(c10::cuda::getCurrentCUDAStream(lane_->stream.device_index()));
    lane_->ready.block(lane_->stream);
    {
      const c10::StreamGuard on_lane(lane_->stream.unwrap());
      for (const Tensor& input : inputs)
        inputs_.push_back(input.defined() ? copy_of(input) : Tensor());
      for (int i = 0; i < kCallsBefore; ++i) (void)run(inputs_);
      CudaRecording recording(lane_->stream);
      outputs_ = run(inputs_);
      graph_ = recording.finish();
    }
    lane_->stream.synchronize();
  }

  std::vector<Tensor> replay(std::span<const Tensor> inputs, c10::cuda::CUDAStream stream) {
    const std::lock_guard lock(mutex_);
    if (last_ && *last_ != stream) done_.block(stream);
    last_ = stream;
    try {
      std::vector<Tensor> outputs = queue(inputs, stream);
      done_.record(stream);
      return outputs;
    } catch (...) {  // no memory for the outputs: the graph may have been launched nevertheless
      done_.record(stream);
      throw;
    }
  }

 private:
  std::vector<Tensor> queue(std::span<const Tensor> inputs, c10::cuda::CUDAStream stream) const {
    for (std::size_t i = 0; i < inputs.size(); ++i)
      // Inputs on the CPU became constants of the graph.
      if (inputs[i].defined() && !inputs[i].device().is_cpu() && inputs[i].nbytes() != 0)
        C10_CUDA_CHECK(cudaMemcpyAsync(inputs_[i].data(), inputs[i].data(), inputs[i].nbytes(),
                                       cudaMemcpyDeviceToDevice, stream.stream()));
    graph_->launch(stream);
    std::vector<Tensor> outputs;
    outputs.reserve(outputs_.size());
    for (const Tensor& output : outputs_)
      outputs.push_back(output.defined() ? copy_of(output) : Tensor());
    return outputs;
  }

  LaneLease lane_;              ///< the stream of the recording, exclusive while this lives
  std::vector<Tensor> inputs_;  ///< the memory that the graph reads
  std::unique_ptr<RecordedGraph> graph_;
  std::vector<Tensor> outputs_;  ///< the memory that the graph writes, in its private pool

  std::mutex mutex_;  ///< serializes replays on the host
  CudaEvent done_;    ///< serializes replays on the device: the last one has finished
  std::optional<c10::cuda::CUDAStream> last_;
};

CudaGraphs::CudaGraphs(Device device, std::size_t limit) : device_(device), limit_(limit) {}
CudaGraphs::~CudaGraphs() = default;

std::string CudaGraphs::record(std::size_t method, std::span<const Tensor> inputs,
                               const RunCall& run) {
  // The allocator and the kernel compilers are only tested with one recording at a time.
  static std::mutex& mutex = *new std::mutex;  // NOLINT(cppcoreguidelines-owning-memory)
  const std::lock_guard serial(mutex);
  const std::string bucket = shape_bucket(method, inputs);
  if (find(bucket) != nullptr) return {};
  if (size() >= limit_)
    return "there are " + std::to_string(limit_) + " already (engine option cuda_graph_limit)";
  const auto index = static_cast<c10::DeviceIndex>(device_.index);
  try {
    const std::vector<Tensor> expected = run(inputs);
    if (!same_bits(expected, run(inputs)))
      return "two of its own calls differ in bits (random numbers, or sums in no fixed order), so "
             "that a replay cannot be proved equal";
    auto graph = std::make_unique<Graph>(index);
    graph->record(inputs, run);
    const auto stream = c10::cuda::getCurrentCUDAStream(index);
    for (int i = 0; i < 2; ++i)
      if (!same_bits(expected, graph->replay(inputs, stream)))
        return "its replay differs in bits from the call itself";
    const std::unique_lock lock(mutex_);
    graphs_.emplace(bucket, std::move(graph));
    return {};
  } catch (const std::exception& error) {
    return main_line(error);
  }
}

std::optional<std::vector<Tensor>> CudaGraphs::replay(std::size_t method,
                                                      std::span<const Tensor> inputs) const {
  if (size() == 0) return std::nullopt;
  Graph* const graph = find(shape_bucket(method, inputs));
  if (graph == nullptr) return std::nullopt;
  const auto stream = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device_.index));
  cudaStreamCaptureStatus status{};
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream.stream(), &status));
  if (status != cudaStreamCaptureStatusNone) return std::nullopt;
  return graph->replay(inputs, stream);
}

std::size_t CudaGraphs::size() const {
  const std::shared_lock lock(mutex_);
  return graphs_.size();
}

CudaGraphs::Graph* CudaGraphs::find(const std::string& bucket) const {
  const std::shared_lock lock(mutex_);
  const auto graph = graphs_.find(bucket);
  return graph == graphs_.end() ? nullptr : graph->second.get();
}

}  // namespace isthmus::torch_engine
