#pragma once

namespace isthmus::torch_engine {

/// Sets the number of threads that one operator may use, for the whole process (0: no change), and
/// limits the pool between operators to one thread unless it has started already. Call it before
/// the first operator runs, so that no larger pool is created.
void set_thread_budget(int threads);

/// Applies the budget to the calling thread: OpenMP keeps the number for each thread, and a new
/// thread would use every core. Cheap after the first call of a thread.
void join_thread_budget();

}  // namespace isthmus::torch_engine
