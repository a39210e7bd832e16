#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "isthmus/model.h"

namespace isthmus::cli {

/// What a benchmark calls: a golden, or a file of inputs.
struct BenchInputs {
  std::string golden;  ///< empty: the first golden of the manifest's warm-up, else the first one
  std::string file;    ///< not empty: instead of a golden
  std::string method = "forward";  ///< for `file`
  /// Microseconds of busy waiting within each timed call: only to prove that tests of timings
  /// notice.
  int slow_down_us = 0;
};

/// A loaded model with one call that is made again and again, in one session.
class BenchSubject {
 public:
  /// Loads, moves the inputs to the device, and makes the first call, timed.
  BenchSubject(const std::filesystem::path& bundle, const LoadOptions& options,
               const BenchInputs& inputs);

  /// One whole call: on a GPU it ends when the work is done.
  void call();
  /// Frees the last answer and lets the device come to rest; belongs outside the clock.
  void between();

  [[nodiscard]] const Model& model() const noexcept { return model_; }
  [[nodiscard]] const std::string& method() const noexcept { return method_; }
  [[nodiscard]] const Inputs& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::string& inputs_name() const noexcept { return name_; }
  [[nodiscard]] double first_call_ms() const noexcept { return first_call_ms_; }

 private:
  void choose(const BenchInputs& inputs);

  Model model_;
  Session session_;
  std::string name_;
  std::string method_;
  Inputs inputs_;
  Outputs answer_;
  std::chrono::microseconds slow_down_;
  double first_call_ms_ = 0;
};

/// Speaks to an orchestrator: one JSON line when ready ({"event": "ready", ...}), then for each
/// line "run N" of standard input {"event": "samples", "samples_ms": [...]}, and after "quit" or
/// the end of the input {"event": "done", "peak_rss_bytes": ...}. A line that is neither: {"event":
/// "error"}. What the library throws is told as an error event and thrown on.
int serve_bench(const std::filesystem::path& bundle, const LoadOptions& options,
                const BenchInputs& inputs);

}  // namespace isthmus::cli
