#pragma once

#include <string>
#include <utility>
#include <vector>

#include "isthmus/options.h"

namespace isthmus::openvino_engine {

/// OpenVINO's properties for these options, by its own names. Threads become
/// INFERENCE_NUM_THREADS. Engine options: `library`; `precision` (f32, the default, bf16, f16):
/// what inference computes in, reduced only when asked for; `hint` (latency, the default,
/// throughput); `streams` (a positive number); `config.KEY=VALUE` for any property of OpenVINO.
/// @throws InvalidInput.
std::vector<std::pair<std::string, std::string>> properties_of(const LoadOptions& options);

}  // namespace isthmus::openvino_engine
