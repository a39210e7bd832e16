#include "engines/torch/cuda_options.h"

#include <charconv>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

constexpr std::string_view kGraphs = "cuda_graphs";
constexpr std::string_view kLimit = "cuda_graph_limit";
constexpr std::string_view kStreams = "streams";

[[noreturn]] void refuse(std::string_view name, const std::string& value, const char* expected) {
  throw InvalidInput("engine option " + std::string(name) + "=" + value + ": expected " + expected);
}

GraphUse graph_use(const std::string& value) {
  if (value == "off") return GraphUse::kOff;
  if (value == "auto") return GraphUse::kAuto;
  if (value == "on") return GraphUse::kOn;
  refuse(kGraphs, value, "off, auto or on");
}

std::size_t graph_limit(const std::string& value) {
  std::size_t limit = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), limit);
  if (error != std::errc() || end != value.data() + value.size() || limit < 1 || limit > 1024)
    refuse(kLimit, value, "a number from 1 to 1024");
  return limit;
}

bool per_caller(const std::string& value) {
  if (value != "current" && value != "caller") refuse(kStreams, value, "current or caller");
  return value == "caller";
}

}  // namespace

bool is_cuda_option(std::string_view name) noexcept {
  return name == kGraphs || name == kLimit || name == kStreams;
}

CudaOptions cuda_options(const LoadOptions& options) {
  CudaOptions result;
  for (const auto& [name, value] : options.engine_options) {
    if (name == kGraphs) result.graphs = graph_use(value);
    if (name == kLimit) result.graph_limit = graph_limit(value);
    if (name == kStreams) result.streams_per_caller = per_caller(value);
  }
  return result;
}

}  // namespace isthmus::torch_engine
