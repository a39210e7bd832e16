#pragma once

#include <filesystem>
#include <string>

#include "isthmus/model.h"

namespace isthmus::cli {

/// The inputs of the timed call: those of a golden, or of a file.
struct BenchInputs {
  std::string golden;  ///< empty: the first golden of the manifest's warm-up, else the first one
  std::string file;    ///< used instead of a golden when not empty
  std::string method = "forward";  ///< the method to call on `file`
};

/// A loaded model and the one call that is timed, which it repeats in one session.
class BenchTarget {
 public:
  /// Loads the model, moves the inputs to the device, and times the first call.
  /// @throws InvalidInput when there is no such golden, or the file does not hold one call.
  BenchTarget(const std::filesystem::path& bundle, const LoadOptions& options,
              const BenchInputs& inputs);

  /// Makes the call, and waits until the device has finished it.
  void call();
  /// Frees the last outputs, gives inputs that the call wrote their first values again, and waits
  /// for the device; not part of the timed call.
  void between();

  [[nodiscard]] const Model& model() const noexcept { return model_; }
  [[nodiscard]] const std::string& method() const noexcept { return method_; }
  [[nodiscard]] const Inputs& inputs() const noexcept { return inputs_; }
  /// Returns true when the call writes inputs; each calling thread then needs inputs of its own.
  [[nodiscard]] bool writes() const { return !model_.signature(method_).writes.empty(); }
  /// Returns inputs of which no other caller has the ones that the call writes.
  [[nodiscard]] Inputs own_inputs() const;
  [[nodiscard]] const std::string& inputs_name() const noexcept { return name_; }
  [[nodiscard]] double first_call_ms() const noexcept { return first_call_ms_; }

 private:
  void choose(const BenchInputs& inputs);

  Model model_;
  Session session_;
  std::string name_;
  std::string method_;
  Inputs given_;  ///< on the CPU
  Inputs inputs_;
  Outputs answer_;
  double first_call_ms_ = 0;
};

/// Serves a benchmark process over standard input and output, in JSON lines. Writes {"event":
/// "ready", ...} after the load; answers each line "run N" by {"event": "samples", "samples_ms":
/// [...]} and any other line by {"event": "error"}; ends after "quit" or the end of the input with
/// {"event": "done", "peak_rss_bytes": ...}. An error of the library is written as an error event
/// and thrown again. Returns the exit code.
int serve_bench(const std::filesystem::path& bundle, const LoadOptions& options,
                const BenchInputs& inputs);

}  // namespace isthmus::cli
