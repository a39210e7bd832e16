#include "engines/openvino/properties.h"

#include <algorithm>
#include <map>

#include "engines/call_gate.h"
#include "isthmus/error.h"

namespace isthmus::openvino_engine {

namespace {

/// The number of shapes that are kept compiled in all streams together. OpenVINO's default is 5000
/// in each stream; a shape takes one or two megabytes, so varying shapes would take gigabytes.
constexpr int kCompiledShapes = 1024;
constexpr int kMinCompiledShapes = 128;  ///< in one stream

/// Returns the number of streams for the calls that run at once; 0: OpenVINO's default.
int streams_of(const LoadOptions& options, int cores) {
  const auto given = options.engine_options.find("streams");
  if (given != options.engine_options.end()) return std::stoi(given->second);
  const int wanted = given_concurrency(options).value_or(0);
  if (wanted > 0) return wanted;
  const int fitting = options.threads > 0 ? std::max(1, cores / options.threads) : 1;
  return fitting > 1 ? fitting : 0;
}

}  // namespace

Properties properties_of(const LoadOptions& options, int cores) {
  std::map<std::string, std::string> properties{{"INFERENCE_PRECISION_HINT", "f32"},
                                                {"PERFORMANCE_HINT", "LATENCY"}};
  std::map<std::string, std::string> given;
  for (const auto& [key, value] : options.engine_options) {
    const auto refuse = [&key = key, &value = value](const std::string& expected) {
      throw InvalidInput("engine option " + key + "=" + value + ": expected " + expected);
    };
    if (key == "precision") {
      if (value != "f32" && value != "bf16" && value != "f16") refuse("f32, bf16 or f16");
      properties["INFERENCE_PRECISION_HINT"] = value;
    } else if (key == "hint") {
      if (value != "latency" && value != "throughput") refuse("latency or throughput");
      properties["PERFORMANCE_HINT"] = value == "latency" ? "LATENCY" : "THROUGHPUT";
    } else if (key == "streams") {
      const bool digits =
          !value.empty() && value.size() < 6 && value != "0" &&
          std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
      if (!digits) refuse("a positive number");
    } else if (key.starts_with("config.")) {
      given[key.substr(7)] = value;
    } else if (key != "library" && key != "max_concurrency") {
      throw InvalidInput("engine option \"" + key +
                         "\" is unknown to the openvino engine; expected library, precision, hint, "
                         "streams, max_concurrency or config.KEY");
    }
  }
  const int streams = streams_of(options, cores);
  const bool throughput = properties["PERFORMANCE_HINT"] == "THROUGHPUT";
  const int expected_streams = streams > 0 ? streams : throughput ? cores : 1;
  properties["CPU_RUNTIME_CACHE_CAPACITY"] =
      std::to_string(std::max(kMinCompiledShapes, kCompiledShapes / std::max(1, expected_streams)));
  if (streams > 0) properties["NUM_STREAMS"] = std::to_string(streams);
  if (options.threads > 0) {
    const int all = options.threads * std::max(1, streams);
    // More threads than cores would compete for them.
    properties["INFERENCE_NUM_THREADS"] =
        std::to_string(std::min(all, std::max(options.threads, cores)));
  }
  for (const auto& [key, value] : given) properties[key] = value;
  return {properties.begin(), properties.end()};
}

std::optional<Properties> with_one_stream(const Properties& wanted, const LoadOptions& options) {
  for (const char* named : {"streams", "max_concurrency", "hint", "config.NUM_STREAMS"})
    if (options.engine_options.contains(named)) return std::nullopt;
  Properties with_one = wanted;
  bool several = false;
  for (auto& [key, value] : with_one) {
    if (key == "NUM_STREAMS") {
      several = value != "1";
      value = "1";
    } else if (key == "INFERENCE_NUM_THREADS" &&
               !options.engine_options.contains("config." + key)) {
      value = std::to_string(options.threads);
    }
  }
  return several ? std::optional(std::move(with_one)) : std::nullopt;
}

}  // namespace isthmus::openvino_engine
