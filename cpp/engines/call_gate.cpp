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
  std::unique_lock lock(mutex_);
  if (running_ < limit_ && !due()) return ++running_ == 1;
  Waiter self;
  self.since = Clock::now();
  waiting_.push_back(&self);
  const auto admitted = [&] {
    return self.admitted || (waiting_.front() == &self && running_ < limit_);
  };
  if (deadline == Clock::time_point::max()) {
    self.wake.wait(lock, admitted);
  } else if (!self.wake.wait_until(lock, deadline, admitted)) {
    std::erase(waiting_, &self);
    // A call that ended may have notified this waiter only.
    if (!waiting_.empty() && running_ < limit_) waiting_.front()->wake.notify_one();
    throw ExecutionError(
        "the call was stopped at its timeout, while it waited for others to end; allow more time, "
        "or make fewer calls at once");
  }
  if (!self.admitted) {
    waiting_.pop_front();
    ++running_;
  }
  // Several calls may have ended and all have notified this waiter, so that more may enter.
  if (!waiting_.empty() && running_ < limit_) waiting_.front()->wake.notify_one();
  return running_ == 1;
}

void CallGate::leave() {
  const std::lock_guard lock(mutex_);
  --running_;
  if (waiting_.empty()) return;
  Waiter& next = *waiting_.front();
  if (due()) {
    next.admitted = true;
    ++running_;
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
