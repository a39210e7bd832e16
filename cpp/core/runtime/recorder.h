#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "isthmus/bundle.h"
#include "isthmus/tensor.h"

namespace isthmus {

struct LoadReport;

/// Writes each call of a model to a folder: the inputs as they were before the engine could change
/// them, and the outputs or the error. docs/replay.md describes the files.
///
/// A call never fails because its record cannot be written. The first such failure is reported on
/// standard error. Thread safety: all members may be called at once.
class Recorder {
 public:
  /// A call that has started.
  struct Call {
    std::int64_t number = -1;  ///< counts from 0; negative: not recorded
    bool refused = false;      ///< the input checks refused it
    std::int64_t session = 0;  ///< the session whose state it uses; 0: the model's own
    NamedTensors tensors;
    std::string facts;  ///< JSON: dtype, shape, strides and device of the inputs as they were given
    std::string method;
    std::chrono::steady_clock::time_point start;
  };
  /// Copies a tensor from its device to the CPU.
  using ToCpu = std::function<Tensor(const Tensor&)>;

  /// Creates the folder and writes `record-TIME-PID.json`, with the time in UTC. Existing files are
  /// kept. @throws InvalidInput when the folder cannot be written.
  Recorder(std::filesystem::path folder, std::int64_t limit, const Bundle& bundle,
           const LoadReport& report);

  /// Copies the inputs. Calls after the first `limit` are not recorded.
  [[nodiscard]] Call start(std::string_view method, std::int64_t session,
                           const NamedTensors& inputs, const ToCpu& to_cpu) const;
  /// Writes the call with its outputs. Nothing is written when the outputs cannot be copied,
  /// because a record without them would look like a wrong answer.
  void finish(Call call, const NamedTensors& outputs, const ToCpu& to_cpu) const;
  /// Writes the call with its error.
  void fail(Call call, const std::exception& error) const;

 private:
  void write(Call& call, const std::string& error) const;
  void complain(const std::string& why) const;

  std::filesystem::path folder_;
  std::string stem_;  ///< TIME-PID or TIME-PID-N, the start of the files' names
  std::int64_t limit_;
  mutable std::atomic<std::int64_t> calls_{0};
  mutable std::atomic<std::int64_t> complaints_{0};
};

}  // namespace isthmus
