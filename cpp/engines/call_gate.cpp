#include "engines/call_gate.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "isthmus/error.h"
#include "isthmus/machine.h"

namespace isthmus {
namespace {

constexpr std::chrono::milliseconds kPatience{1};

thread_local bool inside_gate = false;

}  // namespace

CallGate::Pass::Pass(CallGate& gate, Clock::time_point deadline)
    : gate_(gate.limit_ == 0 || inside_gate ? nullptr : &gate) {
  if (gate_ == nullptr) return;
  alone_ = gate_->enter(deadline);
  inside_gate = true;
}

CallGate::Pass::~Pass() {
  if (gate_ == nullptr) return;
  inside_gate = false;
  gate_->leave();
}

bool CallGate::due() const {
  return !waiting_.empty() && Clock::now() - waiting_.front()->since >= kPatience;
}

bool CallGate::enter(Clock::time_point deadline) {
  std::uint64_t state = state_;
  while (state < limit_)  // there is room, and nobody waits
    if (state_.compare_exchange_weak(state, state + 1)) return state == 0;
  return enter_with_others(deadline);
}

bool CallGate::enter_with_others(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  // From here on to the end, others change the state only when they hold the mutex.
  state_ += kWaiter;
  if (running() >= limit_ || due()) {
    Waiter self;
    self.since = Clock::now();
    waiting_.push_back(&self);
    const auto admitted = [&] {
      return self.admitted || (waiting_.front() == &self && running() < limit_);
    };
    bool in_time = true;
    if (deadline == Clock::time_point::max())
      self.wake.wait(lock, admitted);
    else
      in_time = self.wake.wait_until(lock, deadline, admitted);
    if (self.admitted)
      --state_;  // the call that ended has counted this one
    else
      std::erase(waiting_, &self);
    // Several calls may have ended and all have notified this waiter, so that more may enter.
    const std::uint64_t others = running() + (in_time ? 1 : 0);
    if (!waiting_.empty() && others < limit_) waiting_.front()->wake.notify_one();
    if (!in_time) {
      state_ -= kWaiter;
      throw ExecutionError(
          "the call was stopped at its timeout, while it waited for others to end; allow more "
          "time, or make fewer calls at once");
    }
  }
  state_ -= kWaiter - 1;
  return running() == 1;
}

void CallGate::leave() {
  std::uint64_t state = state_;
  while (state < kWaiter)  // nobody waits
    if (state_.compare_exchange_weak(state, state - 1)) return;
  leave_to_others();
}

void CallGate::leave_to_others() {
  const std::lock_guard lock(mutex_);
  --state_;
  if (waiting_.empty()) return;
  Waiter& next = *waiting_.front();
  if (due()) {
    next.admitted = true;
    ++state_;
    waiting_.pop_front();
  }
  next.wake.notify_one();  // the waiter lives on its thread's stack until it gets the mutex
}

int concurrent_calls(int threads) {
  return std::max(1, usable_cores() / std::max(1, threads));
}

std::optional<int> given_concurrency(const LoadOptions& options) {
  const auto given = options.engine_options.find("max_concurrency");
  if (given == options.engine_options.end()) return std::nullopt;
  int limit = -1;
  const std::string& text = given->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
  if (error != std::errc() || end != text.data() + text.size() || limit < 0)
    throw InvalidInput("engine option max_concurrency=" + text +
                       ": expected 0 (no bound) or a positive number");
  return limit;
}

int call_limit(const LoadOptions& options, Device device, int threads) {
  if (const auto given = given_concurrency(options)) return *given;
  return device.is_cuda() ? 0 : concurrent_calls(threads);
}

}  // namespace isthmus
