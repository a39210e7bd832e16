#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "isthmus/device.h"
#include "isthmus/options.h"

namespace isthmus::torch_engine {

/// Whether calls are recorded as CUDA graphs: never, where it can be done, or without exception.
enum class GraphUse : std::uint8_t { kOff, kAuto, kOn };

/// The engine options that only matter on CUDA devices.
struct CudaOptions {
  GraphUse graphs = GraphUse::kOff;
  std::size_t graph_limit = 16;     ///< graphs of one model, each with memory of its own
  bool streams_per_caller = false;  ///< false: calls go to the thread's current stream
};

inline constexpr std::string_view kCudaOptionNames = "cuda_graphs, cuda_graph_limit or streams";

[[nodiscard]] bool is_cuda_option(std::string_view name) noexcept;

/// The options as the caller set them. @throws InvalidInput naming what was expected.
[[nodiscard]] CudaOptions cuda_options(const LoadOptions& options);

}  // namespace isthmus::torch_engine
