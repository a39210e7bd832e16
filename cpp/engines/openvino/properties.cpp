#include "engines/openvino/properties.h"

#include <algorithm>
#include <map>

#include "isthmus/error.h"

namespace isthmus::openvino_engine {

std::vector<std::pair<std::string, std::string>> properties_of(const LoadOptions& options) {
  std::map<std::string, std::string> properties{{"INFERENCE_PRECISION_HINT", "f32"},
                                                {"PERFORMANCE_HINT", "LATENCY"}};
  if (options.threads > 0) properties["INFERENCE_NUM_THREADS"] = std::to_string(options.threads);
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
      properties["NUM_STREAMS"] = value;
    } else if (key.starts_with("config.")) {
      properties[key.substr(7)] = value;
    } else if (key != "library") {
      throw InvalidInput("engine option \"" + key +
                         "\" is unknown to the openvino engine; expected library, precision, hint, "
                         "streams or config.KEY");
    }
  }
  return {properties.begin(), properties.end()};
}

}  // namespace isthmus::openvino_engine
