#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/options.h"

namespace isthmus::openvino_engine {

using Properties = std::vector<std::pair<std::string, std::string>>;

/// OpenVINO's properties for these options, by its own names. `threads` is for each call, and
/// INFERENCE_NUM_THREADS for all streams: where more than one call fits `cores`, there is a stream
/// for each. What is compiled for each shape is kept within bounds. Engine options: `library`;
/// `precision` (f32, the default, bf16, f16): what inference computes in, reduced only when asked
/// for; `hint` (latency, the default, throughput); `streams` (a positive number) and
/// `max_concurrency`: calls at once; `config.KEY=VALUE` for any property of OpenVINO.
/// @throws InvalidInput.
Properties properties_of(const LoadOptions& options, int cores);

/// The same with one stream, of as many threads as a call has; nothing where there is one anyway,
/// or where the caller said how many calls run at once.
std::optional<Properties> with_one_stream(const Properties& wanted, const LoadOptions& options);

}  // namespace isthmus::openvino_engine
