#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench_subject.h"
#include "isthmus/batcher.h"
#include "isthmus/timing.h"

namespace isthmus::cli {

/// How `bench --callers` calls.
struct CallersOptions {
  int callers = 0;          ///< threads; 0: not asked for
  bool batch = false;       ///< through a Batcher
  BatcherOptions limits{};  ///< with `batch`
  int warmup_calls = 10;    ///< by each, thrown away
  int iterations = 100;     ///< of all together, at least
  double min_seconds = 1;   ///< at least
};

/// What many threads got that called one model back to back.
struct CallersResult {
  TimingResult timing;  ///< of all calls, as their callers saw them
  std::vector<std::int64_t> calls_by_caller;
  double seconds = 0;    ///< from the first call counted to the last
  int threads = 0;       ///< of the process, while they called
  BatcherStats batcher;  ///< with `batch`
  std::vector<std::string> notes;

  [[nodiscard]] double calls_per_second() const;
};

/// Threads that make the subject's call until time and iterations are over, each with a session of
/// its own. @throws what the first call threw that failed.
CallersResult run_callers(const BenchSubject& subject, const CallersOptions& options);

}  // namespace isthmus::cli
