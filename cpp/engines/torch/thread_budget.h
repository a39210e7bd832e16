#pragma once

#include <condition_variable>
#include <mutex>

namespace isthmus::torch_engine {

/// Sets how many threads one operator may use, for the whole process (0: as it is), and the pool
/// between operators to one thread where nothing has started it yet. Before the first operator, so
/// that no other pool is ever made.
void set_thread_budget(int threads);

/// Makes the calling thread use the budget: OpenMP keeps a number for each thread of its own, and a
/// fresh thread would take every core. Cheap after a thread's first call.
void join_thread_budget();

/// Bounds how many calls run at once, so that callers times threads does not exceed the cores:
/// calls keep their number of threads, hence their bits, and wait a moment instead.
class CallGate {
 public:
  /// `limit` 0: no bound.
  explicit CallGate(int limit) : limit_(limit) {}

  /// The right to run, given back by the destructor. A thread that holds one already (an operator
  /// that calls a model of its own) passes at once: waiting for itself would be for ever.
  class Pass {
   public:
    explicit Pass(CallGate& gate);
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass();

   private:
    CallGate* gate_;  ///< null: passed without waiting
  };

 private:
  const int limit_;
  int running_ = 0;
  std::mutex mutex_;
  std::condition_variable free_;
};

/// Calls that may run at once with this many threads each: cores divided by threads, at least one.
int concurrent_calls(int threads);

}  // namespace isthmus::torch_engine
