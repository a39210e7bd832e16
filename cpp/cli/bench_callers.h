#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench_target.h"
#include "isthmus/batcher.h"
#include "isthmus/timing.h"

namespace isthmus::cli {

/// The options of `bench --callers`.
struct CallersOptions {
  int callers = 0;          ///< number of threads; 0: the option was not given
  bool batch = false;       ///< calls go through a Batcher
  BatcherOptions limits{};  ///< used with `batch`
  int warmup_calls = 10;    ///< calls of each thread that are not counted
  int iterations = 100;     ///< least number of calls of all threads together
  double min_seconds = 1;   ///< least duration
};

/// The measurements of threads that call one model at the same time.
struct CallersResult {
  TimingResult timing;  ///< the latencies of all calls, measured by their callers
  std::vector<std::int64_t> calls_by_caller;
  double seconds = 0;    ///< from the first counted call to the last
  int threads = 0;       ///< threads of the process during the calls
  BatcherStats batcher;  ///< filled with `batch`
  std::vector<std::string> notes;

  [[nodiscard]] double calls_per_second() const;
};

/// Lets threads make the target's call back to back, each in its own session, until both the time
/// and the number of calls are reached. @throws the error of the first call that failed.
CallersResult run_callers(const BenchTarget& target, const CallersOptions& options);

}  // namespace isthmus::cli
