#include "engines/torch/thread_budget.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <atomic>

namespace isthmus::torch_engine {
namespace {

/// Counts changes of the budget, so that threads know when to take it up anew.
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

}  // namespace isthmus::torch_engine
