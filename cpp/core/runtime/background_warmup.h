#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <thread>

namespace isthmus {

/// One piece of work on a thread of its own, which others ask after. `Model::load` warms up in it.
class BackgroundWarmup {
 public:
  /// Runs `work` at once; it is to return soon after its argument has become true.
  explicit BackgroundWarmup(std::function<void(const std::atomic<bool>& stop)> work);
  BackgroundWarmup(const BackgroundWarmup&) = delete;
  BackgroundWarmup& operator=(const BackgroundWarmup&) = delete;
  /// Stops the work and waits for its end.
  ~BackgroundWarmup();

  /// Whether the work is over. @throws what it threw.
  [[nodiscard]] bool over() const;

  /// Returns when the work is over. @throws what it threw.
  void wait() const;

 private:
  struct State {
    std::atomic<bool> stop = false;
    std::atomic<bool> over = false;
    std::exception_ptr error;  ///< written before `over`
  };
  void rethrow() const;

  std::unique_ptr<State> state_ = std::make_unique<State>();
  std::thread thread_;
};

}  // namespace isthmus
