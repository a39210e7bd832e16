#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "isthmus/device.h"
#include "isthmus/options.h"

namespace isthmus::torch_engine {

/// The recording of calls as CUDA graphs: never, where possible, or required.
enum class GraphUse : std::uint8_t { kOff, kAuto, kOn };

/// The engine options that only affect CUDA devices.
struct CudaOptions {
  GraphUse graphs = GraphUse::kOff;
  std::size_t graph_limit = 16;     ///< most graphs of one model; each has its own memory
  bool streams_per_caller = false;  ///< false: calls run on the thread's current stream
};

inline constexpr std::string_view kCudaOptionNames = "cuda_graphs, cuda_graph_limit or streams";

[[nodiscard]] bool is_cuda_option(std::string_view name) noexcept;

/// Parses the options. @throws InvalidInput naming what was expected.
[[nodiscard]] CudaOptions cuda_options(const LoadOptions& options);

}  // namespace isthmus::torch_engine
