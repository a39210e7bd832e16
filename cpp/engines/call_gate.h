#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>

#include "isthmus/device.h"
#include "isthmus/options.h"

namespace isthmus {

/// Bounds how many calls run at once, so that callers times threads does not exceed the cores. Each
/// call keeps its number of threads, which decides its bits, and waits instead.
///
/// A new caller enters while there is room, even when waiting callers are about to wake up, because
/// handing over to them would take longer than a short call. A caller that has waited for a
/// millisecond is no longer overtaken, so that none starves.
class CallGate {
 public:
  /// `limit` 0: no bound.
  explicit CallGate(int limit) : limit_(static_cast<std::uint64_t>(limit)) {}

  /// The right to run, released by the destructor. A thread that holds a pass already (in an
  /// operator that calls another model) does not wait, because it would wait for itself.
  class Pass {
   public:
    explicit Pass(CallGate& gate) : Pass(gate, Clock::time_point::max()) {}
    /// @throws ExecutionError when there is no room until `deadline`.
    Pass(CallGate& gate, std::chrono::steady_clock::time_point deadline);
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass();

    /// Returns true when no other call was running when this one entered.
    [[nodiscard]] bool alone() const noexcept { return alone_; }

   private:
    CallGate* gate_;  ///< null: passed without waiting
    bool alone_ = false;
  };

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiter {
    Clock::time_point since;
    bool admitted = false;  ///< set by a call that ended, which has counted it in running_
    std::condition_variable wake;
  };

  /// Waits for room. Returns true when no other call is running.
  /// @throws ExecutionError when there is none until `deadline`.
  bool enter(Clock::time_point deadline);
  bool enter_with_others(Clock::time_point deadline);
  void leave();
  void leave_to_others();
  /// Returns the number of running calls.
  [[nodiscard]] std::uint64_t running() const { return state_ % kWaiter; }
  /// Returns true when the longest waiting caller must not be overtaken. The mutex must be held.
  [[nodiscard]] bool due() const;

  static constexpr std::uint64_t kWaiter = std::uint64_t{1} << 32;

  const std::uint64_t limit_;
  /// The number of running calls, plus `kWaiter` for each caller that waits or is about to. Without
  /// waiters it is changed without the mutex.
  std::atomic<std::uint64_t> state_{0};
  std::mutex mutex_;
  std::deque<Waiter*> waiting_;  ///< longest first
};

/// Returns how many calls may run at once with this many threads each: the usable cores divided by
/// the threads, at least 1.
int concurrent_calls(int threads);

/// Returns the engine option `max_concurrency` when it is given; 0: no bound.
/// @throws InvalidInput naming what was expected.
std::optional<int> given_concurrency(const LoadOptions& options);

/// Returns how many calls may run at once: the engine option, or as many as fit the cores with
/// `threads` each. Returns 0 (no bound) for a GPU, where calls do not wait for cores.
/// @throws as above.
int call_limit(const LoadOptions& options, Device device, int threads);

}  // namespace isthmus
