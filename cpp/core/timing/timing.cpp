#include "isthmus/timing.h"

#include <chrono>
#include <utility>

#include "isthmus/error.h"

namespace isthmus {

TimingResult time_calls(const std::function<void()>& call, const TimingOptions& options) {
  if (options.warmup < 0 || options.iterations < 1 || !(options.min_seconds >= 0))
    throw InvalidInput(
        "TimingOptions: expected warmup >= 0, iterations >= 1 and min_seconds >= 0, got " +
        std::to_string(options.warmup) + ", " + std::to_string(options.iterations) + " and " +
        std::to_string(options.min_seconds));
  const auto between = [&] {
    if (options.between) options.between();
  };
  for (int i = 0; i < options.warmup; ++i) {
    between();
    call();
  }

  using Clock = std::chrono::steady_clock;
  std::vector<double> samples_ms;
  samples_ms.reserve(static_cast<std::size_t>(options.iterations));
  const double min_ms = options.min_seconds * 1e3;
  double counted_ms = 0;
  while (samples_ms.size() < static_cast<std::size_t>(options.iterations) || counted_ms < min_ms) {
    between();
    const Clock::time_point start = Clock::now();
    call();
    const std::chrono::duration<double, std::milli> took = Clock::now() - start;
    samples_ms.push_back(took.count());
    counted_ms += took.count();
  }
  return summarize(std::move(samples_ms));
}

}  // namespace isthmus
