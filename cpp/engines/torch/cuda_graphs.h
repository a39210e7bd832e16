#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engines/torch/cuda_device.h"
#include "isthmus/device.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// The recorded calls of one model on one device: a CUDA graph for each bucket of shapes, with
/// inputs and outputs at fixed addresses. A replay copies the inputs in, launches the graph, and
/// copies the outputs out, all on the thread's current stream; the host does not wait.
///
/// Thread safety: all members may be called from many threads at once. Recordings are serialized,
/// and so are the replays of one graph, on the device.
class CudaGraphs {
 public:
  CudaGraphs(Device device, std::size_t limit);
  ~CudaGraphs();

  /// Records the call and compares two replays with the call itself, bit by bit. Waits for the
  /// device. Returns why there is no graph for these inputs; empty when there is one.
  [[nodiscard]] std::string record(std::size_t method, std::span<const Tensor> inputs,
                                   const RunCall& run);

  /// Returns the outputs of the call, which own their memory; nullopt when there is no graph for
  /// these inputs, or the caller is itself recording a graph, so that the call must run.
  [[nodiscard]] std::optional<std::vector<Tensor>> replay(std::size_t method,
                                                          std::span<const Tensor> inputs) const;

  [[nodiscard]] std::size_t size() const;

 private:
  class Graph;
  /// Returns null when there is none. A graph lives as long as this object.
  [[nodiscard]] Graph* find(const std::string& bucket) const;

  Device device_;
  std::size_t limit_;
  mutable std::shared_mutex mutex_;                                 ///< guards the map
  std::unordered_map<std::string, std::unique_ptr<Graph>> graphs_;  ///< by shape_bucket()
};

}  // namespace isthmus::torch_engine
