#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/options.h"

namespace isthmus::openvino_engine {

using Properties = std::vector<std::pair<std::string, std::string>>;

/// Translates options to OpenVINO's properties. `threads` counts the threads of one call,
/// INFERENCE_NUM_THREADS those of all streams; when several calls fit `cores`, each has a stream.
/// The number of shapes that OpenVINO keeps compiled is bounded. Engine options: `library`;
/// `precision` (f32, the default, bf16, f16), in which inference computes; `hint` (latency, the
/// default, throughput); `streams` (a positive number) and `max_concurrency`, the calls at once;
/// `config.KEY=VALUE` for any property of OpenVINO.
/// @throws InvalidInput.
Properties properties_of(const LoadOptions& options, int cores);

/// Returns the same properties with one stream, which has as many threads as a call. Returns
/// nullopt when there is one stream anyway, or when the options set the number of calls at once.
std::optional<Properties> with_one_stream(const Properties& wanted, const LoadOptions& options);

}  // namespace isthmus::openvino_engine
