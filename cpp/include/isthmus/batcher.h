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

/// What `submit` does when the queue is full: wait for room, or throw ExecutionError.
enum class WhenFull : std::uint8_t { kWait, kRefuse };

/// What `close` does with requests that wait in the queue.
enum class Pending : std::uint8_t { kRun, kCancel };

/// Options of a Batcher.
struct BatcherOptions {
  std::string method = "forward";
  int workers = 1;                 ///< calls of the model at once; divide the model's threads by it
  std::int64_t max_requests = 16;  ///< most requests in one call
  /// Most elements of one call, rows times longest length with padding; 0: no limit. A larger
  /// request runs alone.
  std::int64_t max_elements = 4096;
  /// Largest share of a call's elements that may be padding, from 0 to less than 1. With 0, only
  /// requests of equal length run together.
  double max_padding = 0.1;
  /// How long a request may wait for others while a worker is idle. With 0, requests are joined
  /// only when they wait for a busy worker.
  std::chrono::microseconds max_wait{0};
  std::size_t max_queue = 1024;  ///< most requests that wait
  WhenFull when_full = WhenFull::kWait;
  std::map<std::string, double> padding{};  ///< padding value by input name; default 0
  double timeout = 0;                       ///< of each call of the model, see RunOptions
};

/// Numbers since a Batcher was created.
struct BatcherStats {
  std::int64_t requests = 0;     ///< requests that have begun
  std::int64_t cancelled = 0;    ///< requests that were cancelled before they began
  std::int64_t calls = 0;        ///< calls of the model
  std::int64_t elements = 0;     ///< elements of all calls, rows times longest length
  std::int64_t padding = 0;      ///< the padding among these elements
  std::size_t most_waiting = 0;  ///< largest number of requests in the queue
  double longest_wait_ms = 0;    ///< longest time from `submit` to the start of the call
  double longest_call_ms = 0;    ///< longest call, with joining and splitting
};

/// A queue in the process that joins requests of similar length into one call of a Model.
///
/// Requests are joined along the named dimension with which all inputs and outputs begin ("batch"),
/// and padded along the only other named dimension of the inputs ("sequence") to the longest
/// request of the call. Padding is used only for a model that ignores it: the constructor runs a
/// golden with padding, and the answer must be the golden's within the bundle's tolerance. Requests
/// that cannot be joined run alone; `notes` has the reasons.
///
/// The oldest request is always in the next call. A request with `ahead` requests before it begins
/// after at most
///     max_wait + (ahead / workers + 1) x the longest call
/// with ahead / workers rounded down, if the model runs `workers` calls at once.
///
/// Answers are those of single calls within the noise floor. When a joined call fails, its requests
/// are run again one by one, so that only the one that causes the error fails.
///
/// Thread safety: all members may be called at once, but not during the destructor.
class ISTHMUS_API Batcher {
 public:
  /// A submitted request.
  class Ticket {
   public:
    /// Cancels the request. Returns true when it had not begun; then its answer is an error.
    bool cancel() const;

   private:
    friend class Batcher;
    std::function<bool()> cancel_;
  };

  /// The answer to a request: outputs, or an error.
  struct Answer {
    Outputs outputs;
    std::exception_ptr error;  ///< null when there are outputs
    bool cancelled = false;    ///< cancelled before it began; `error` is set too
  };
  /// Called once for each request, on the thread of a worker, or of the caller of `cancel` or
  /// `close`. Must not throw.
  using Done = std::function<void(Answer)>;

  /// Starts the workers.
  /// @throws InvalidInput for a stateful model, a method that writes its inputs, an unknown method,
  /// options that are out of range, or a
  ///     padding value that the input cannot hold.
  explicit Batcher(Model model, BatcherOptions options = {});
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;
  /// Calls `close(Pending::kRun)`.
  ~Batcher();

  /// Queues a request of one or more rows. The inputs are on the CPU; they are checked and copied
  /// before this returns. The outputs are on the CPU.
  /// @throws InvalidInput when the inputs do not fit the signature; ExecutionError when the queue
  /// is full
  ///     (WhenFull::kRefuse) or the Batcher is closed.
  std::future<Outputs> submit(const Inputs& inputs);
  /// The same with a callback instead of a future.
  Ticket submit(const Inputs& inputs, Done done);

  /// Refuses further requests, and returns when the last one is answered. When it is called by
  /// `Done`, it does not wait for the call of that request.
  void close(Pending pending = Pending::kRun);

  [[nodiscard]] BatcherStats stats() const;
  /// Returns why requests are not joined or not padded; empty when both are done.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace isthmus
