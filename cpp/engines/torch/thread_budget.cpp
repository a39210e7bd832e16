#include "engines/torch/thread_budget.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <atomic>

namespace isthmus::torch_engine {
namespace {

/// Returns the number of changes of the budget, which tells a thread when to apply it again.
std::atomic<int>& generation() {
  static std::atomic<int> value{1};
  return value;
}

}  // namespace

void set_thread_budget(int threads) {
  if (threads <= 0) return;
  static std::atomic<bool> first{true};
  if (first.exchange(false)) {
    try {
      at::set_num_interop_threads(1);
    } catch (const c10::Error&) {
      // The process has started that pool already, and its size is final.
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

}  // namespace isthmus::torch_engine
