#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "isthmus/error.h"

namespace isthmus {

/// Calls a function on a thread of its own at a deadline, unless it is destroyed before.
class Alarm {
 public:
  using Clock = std::chrono::steady_clock;

  Alarm(Clock::time_point deadline, std::function<void()> ring)
      : thread_([this, deadline, ring = std::move(ring)](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          if (wake_.wait_until(lock, stop, deadline, [] { return false; }) || stop.stop_requested())
            return;
          rang_ = true;
          ring();
        }) {}

  /// Returns true when the function was called.
  [[nodiscard]] bool rang() const noexcept { return rang_; }

 private:
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::atomic<bool> rang_{false};
  std::jthread thread_;  ///< the last member: it uses the others
};

/// Returns the error of a call that was stopped at its timeout.
inline ExecutionError stopped_at_timeout(const std::string& method) {
  return ExecutionError("\"" + method +
                        "\" was stopped at its timeout (RunOptions::timeout); allow more time, or "
                        "give the model less to do");
}

}  // namespace isthmus
