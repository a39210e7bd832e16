#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <thread>

namespace isthmus {

/// Runs the warm-up of a model on a thread of its own. The members may be called by any thread.
class BackgroundWarmup {
 public:
  /// Starts `work`, which must return soon after its argument has become true.
  explicit BackgroundWarmup(std::function<void(const std::atomic<bool>& stop)> work);
  BackgroundWarmup(const BackgroundWarmup&) = delete;
  BackgroundWarmup& operator=(const BackgroundWarmup&) = delete;
  /// Asks the work to stop, and waits for its end.
  ~BackgroundWarmup();

  /// Returns true when the work has ended. @throws what it threw, at each call.
  [[nodiscard]] bool over() const;

  /// Waits for the end of the work. @throws what it threw, at each call.
  void wait() const;

 private:
  struct State {
    std::atomic<bool> stop = false;
    std::atomic<bool> over = false;
    std::exception_ptr error;  ///< written before `over` is set
  };
  void rethrow() const;

  std::unique_ptr<State> state_ = std::make_unique<State>();
  std::thread thread_;
};

}  // namespace isthmus
