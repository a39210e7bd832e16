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

/// Writes each call of a model to a folder: the inputs as they were given, before the engine could
/// change them, and the outputs or the error. docs/replay.md tells the files.
///
/// A call never fails because its record cannot be written: the first such failure is told on
/// standard error, and counted. Thread safety: all members may be called at once.
class Recorder {
 public:
  /// A call that has begun.
  struct Call {
    std::int64_t number = -1;  ///< counted from 0; below 0: not recorded
    bool refused = false;      ///< the checks kept it from the engine
    std::int64_t session = 0;  ///< whose state it runs on; 0: the model's own
    NamedTensors tensors;
    std::string facts;  ///< JSON of the inputs as they were given
    std::string method;
    std::chrono::steady_clock::time_point start;
  };
  /// Copies a tensor from its device to the CPU.
  using ToCpu = std::function<Tensor(const Tensor&)>;

  /// Makes the folder and writes `record-TIME-PID.json`, TIME in UTC. Files that are there stay.
  /// @throws InvalidInput when it cannot.
  Recorder(std::filesystem::path folder, std::int64_t limit, const Bundle& bundle,
           const LoadReport& report);

  /// Takes copies of the inputs.
  [[nodiscard]] Call start(std::string_view method, std::int64_t session,
                           const NamedTensors& inputs, const ToCpu& to_cpu) const;
  void finish(Call call, const NamedTensors& outputs, const ToCpu& to_cpu) const;
  void fail(Call call, const std::exception& error) const;

 private:
  void write(Call& call, const std::string& error) const;
  void complain(const std::string& why) const;

  std::filesystem::path folder_;
  std::string stem_;  ///< TIME-PID, or TIME-PID-N: what the files' names begin with
  std::int64_t limit_;
  mutable std::atomic<std::int64_t> calls_{0};
  mutable std::atomic<std::int64_t> complaints_{0};
};

}  // namespace isthmus
