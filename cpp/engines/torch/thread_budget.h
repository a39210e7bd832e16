#pragma once

namespace isthmus::torch_engine {

/// Sets how many threads one operator may use, for the whole process (0: as it is), and the pool
/// between operators to one thread where nothing has started it yet. Before the first operator, so
/// that no other pool is ever made.
void set_thread_budget(int threads);

/// Makes the calling thread use the budget: OpenMP keeps a number for each thread of its own, and a
/// fresh thread would take every core. Cheap after a thread's first call.
void join_thread_budget();

}  // namespace isthmus::torch_engine
