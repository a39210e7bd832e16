#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>

#include "isthmus/device.h"
#include "isthmus/options.h"

namespace isthmus {

/// Bounds how many calls run at once, so that callers times threads does not exceed the cores:
/// calls keep their number of threads, hence their bits, and wait a moment instead.
///
/// A caller that comes while there is room goes first, even where others are about to wake up:
/// short calls would cost more to hand over than to run. One that has waited for a millisecond is
/// overtaken no more, so that no caller starves.
class CallGate {
 public:
  /// `limit` 0: no bound.
  explicit CallGate(int limit) : limit_(limit) {}

  /// The right to run, given back by the destructor. A thread that holds one already (an operator
  /// that calls a model of its own) passes at once: waiting for itself would be for ever.
  class Pass {
   public:
    explicit Pass(CallGate& gate);
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass();

    /// Whether no other call ran when this one was let in.
    [[nodiscard]] bool alone() const noexcept { return alone_; }

   private:
    CallGate* gate_;  ///< null: passed without waiting
    bool alone_ = false;
  };

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiter {
    Clock::time_point since;
    bool admitted = false;  ///< by a call that ended: it is counted in running_, and waits no more
    std::condition_variable wake;
  };

  /// Returns whether no other call runs.
  bool enter();
  void leave();
  /// Whether the longest waiting may be overtaken no more. The caller holds the mutex.
  [[nodiscard]] bool due() const;

  const int limit_;
  int running_ = 0;
  std::mutex mutex_;
  std::deque<Waiter*> waiting_;  ///< longest first
};

/// Calls that may run at once with this many threads each: cores divided by threads, at least one.
int concurrent_calls(int threads);

/// The engine option `max_concurrency`, where it is given; 0: no bound.
/// @throws InvalidInput naming what was expected.
std::optional<int> given_concurrency(const LoadOptions& options);

/// Calls at once: the engine option, or what fits the cores with `threads` each. Work on a GPU
/// waits for the GPU and not for cores: 0, no bound. @throws as above.
int call_limit(const LoadOptions& options, Device device, int threads);

}  // namespace isthmus
