#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "isthmus/export.h"
#include "isthmus/model.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// What `submit` does when as many requests wait as may.
enum class WhenFull : std::uint8_t { kWait, kRefuse };

/// What `close` does with requests that have not begun.
enum class Pending : std::uint8_t { kRun, kCancel };

/// Limits of a Batcher.
struct BatcherOptions {
  std::string method = "forward";
  int workers = 1;  ///< calls of the model at once; give it that many times fewer threads
  std::int64_t max_requests = 16;  ///< requests in one call
  /// Elements of one call, padding included: rows x longest length; 0: no limit.
  std::int64_t max_elements = 4096;
  /// Share of a call's elements that may be padding; 0: only requests of equal length meet.
  double max_padding = 0.1;
  /// How long a request may wait for others when a worker is idle. With 0 nobody waits for company:
  /// requests meet while the workers are busy.
  std::chrono::microseconds max_wait{0};
  std::size_t max_queue = 1024;  ///< requests that may wait
  WhenFull when_full = WhenFull::kWait;
  std::map<std::string, double> padding{};  ///< by input name: the value that pads it; 0 by default
};

/// What a Batcher has done.
struct BatcherStats {
  std::int64_t requests = 0;   ///< that began
  std::int64_t cancelled = 0;  ///< before they began
  std::int64_t calls = 0;      ///< of the model
  std::int64_t elements = 0;   ///< rows x longest length, over all calls
  std::int64_t padding = 0;    ///< of these, padding
  std::size_t most_waiting = 0;
  double longest_wait_ms = 0;  ///< from submit to the start of its call
  double longest_call_ms = 0;  ///< of the model, putting together and taking apart included
};

/// Puts requests of similar length into one call: an in-process queue before a Model.
///
/// Requests are put together along the named dimension that every input and output begins with
/// ("batch"), and padded along the one other named dimension that their inputs have ("sequence") to
/// the longest of the call. Padding is used only where the model was seen not to mind it: a golden
/// is run alone and padded when the Batcher is made, and has to give the same answer within the
/// bundle's tolerance. What cannot be put together runs alone; `notes` says why.
///
/// The oldest request is in the next call, so that no request waits for others without end: the
/// call of one with `ahead` requests before it in the queue begins after at most
///     max_wait + (ahead / workers + 1) x the longest call
/// (ahead / workers rounded down), where the model lets `workers` calls run at once.
///
/// An answer is the single call's within the noise floor. A request that fails, fails alone: the
/// others of its call are run again without it.
///
/// Thread safety: all members may be called at once, `close` and the destructor once.
class ISTHMUS_API Batcher {
 public:
  /// A request that waits.
  class Ticket {
   public:
    /// Takes the request back. True when it had not begun: then it is answered with an error.
    bool cancel() const;

   private:
    friend class Batcher;
    std::function<bool()> cancel_;
  };

  /// What a request is answered with: outputs, or the error.
  struct Answer {
    Outputs outputs;
    std::exception_ptr error;
    bool cancelled = false;  ///< it never began; `error` says so too
  };
  using Done = std::function<void(Answer)>;  ///< called once, on a worker's thread; must not throw

  /// Starts the workers.
  /// @throws InvalidInput for a stateful model, an unknown method or limits that allow nothing.
  explicit Batcher(Model model, BatcherOptions options = {});
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;
  /// As `close(Pending::kRun)`.
  ~Batcher();

  /// Queues a request: inputs by name, on the CPU, of one or more rows. It is checked here, so that
  /// a wrong one is nobody else's fault. Outputs are on the CPU.
  /// @throws InvalidInput when it does not fit the signature; ExecutionError when the queue is full
  /// (WhenFull::kRefuse) or closed.
  std::future<Outputs> submit(const Inputs& inputs);
  /// The same with a function in place of the future.
  Ticket submit(const Inputs& inputs, Done done);

  /// No more requests; returns when the last one is answered. Called from `Done`, it does not wait
  /// for the call that it is in.
  void close(Pending pending = Pending::kRun);

  [[nodiscard]] BatcherStats stats() const;
  /// What is not done, and why: no batching, no padding.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace isthmus
