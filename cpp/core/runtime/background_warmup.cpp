#include "core/runtime/background_warmup.h"

#include <utility>

namespace isthmus {

BackgroundWarmup::BackgroundWarmup(std::function<void(const std::atomic<bool>& stop)> work)
    : thread_([state = state_.get(), work = std::move(work)] {
        try {
          work(state->stop);
        } catch (...) {
          state->error = std::current_exception();
        }
        state->over = true;
        state->over.notify_all();
      }) {}

BackgroundWarmup::~BackgroundWarmup() {
  state_->stop = true;
  thread_.join();
}

bool BackgroundWarmup::over() const {
  if (!state_->over) return false;
  rethrow();
  return true;
}

void BackgroundWarmup::wait() const {
  state_->over.wait(false);
  rethrow();
}

void BackgroundWarmup::rethrow() const {
  if (state_->error) std::rethrow_exception(state_->error);
}

}  // namespace isthmus
