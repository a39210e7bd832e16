#include "engines/torch/thread_budget.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>

#include "isthmus/machine.h"

namespace isthmus::torch_engine {
namespace {

/// Counts changes of the budget, so that threads know when to take it up anew.
std::atomic<int>& generation() {
  static std::atomic<int> value{1};
  return value;
}

thread_local bool inside_gate = false;

}  // namespace

void set_thread_budget(int threads) {
  if (threads <= 0) return;
  static std::atomic<bool> first{true};
  if (first.exchange(false)) {
    try {
      at::set_num_interop_threads(1);
    } catch (const c10::Error&) {
      // The process has started that pool already; its size cannot be changed any more.
    }
  }
  at::set_num_threads(threads);
  generation().fetch_add(1);
}

void join_thread_budget() {
  thread_local int joined = 0;
  const int current = generation().load(std::memory_order_relaxed);
  if (joined == current) return;
  at::init_num_threads();
  joined = current;
}

CallGate::Pass::Pass(CallGate& gate) : gate_(gate.limit_ == 0 || inside_gate ? nullptr : &gate) {
  if (gate_ == nullptr) return;
  std::unique_lock lock(gate_->mutex_);
  gate_->free_.wait(lock, [this] { return gate_->running_ < gate_->limit_; });
  ++gate_->running_;
  inside_gate = true;
}

CallGate::Pass::~Pass() {
  if (gate_ == nullptr) return;
  inside_gate = false;
  {
    const std::lock_guard lock(gate_->mutex_);
    --gate_->running_;
  }
  gate_->free_.notify_one();
}

int concurrent_calls(int threads) {
  return std::max(1, this_machine().cores / std::max(1, threads));
}

}  // namespace isthmus::torch_engine
