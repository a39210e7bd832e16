#include "cli/bench_callers.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <iterator>
#include <latch>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "isthmus/error.h"

namespace isthmus::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int threads_of_process() {
  std::error_code ignored;  // returns 0 when there is no such folder
  const std::filesystem::directory_iterator tasks("/proc/self/task", ignored);
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

/// The calling threads and their shared data.
class Callers {
 public:
  Callers(const BenchTarget& target, const CallersOptions& options)
      : target_(target), options_(options), ready_(options.callers + 1) {
    if (!options.batch) return;
    BatcherOptions limits = options.limits;
    limits.method = target.method();
    batcher_ = std::make_unique<Batcher>(target.model(), limits);
  }

  CallersResult run() {
    const auto count = static_cast<std::size_t>(options_.callers);
    std::vector<std::vector<double>> samples(count);
    {
      std::vector<std::jthread> threads;
      for (auto& of_thread : samples) threads.emplace_back([this, &of_thread] { work(of_thread); });
      ready_.arrive_and_wait();
      start_ = Clock::now();
      go_.count_down();
      while (!stop_ &&
             (seconds_since(start_) < options_.min_seconds || done_ < options_.iterations))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      result_.threads = threads_of_process();
      stop_ = true;
    }
    result_.seconds = seconds_since(start_);
    if (error_) std::rethrow_exception(error_);
    std::vector<double> all;
    for (const auto& of_thread : samples) {
      result_.calls_by_caller.push_back(static_cast<std::int64_t>(of_thread.size()));
      all.insert(all.end(), of_thread.begin(), of_thread.end());
    }
    result_.timing = summarize(std::move(all));
    if (batcher_) {
      result_.batcher = batcher_->stats();
      result_.notes = batcher_->notes();
    }
    return std::move(result_);
  }

 private:
  void work(std::vector<double>& samples) {
    Session session = target_.model().session();
    Inputs inputs = target_.inputs();
    // Not part of the timed call.
    const auto renew = [&] {
      if (target_.writes()) inputs = target_.own_inputs();
    };
    const auto call = [&] {
      if (batcher_)
        (void)batcher_->submit(inputs).get();
      else
        (void)session.call(target_.method(), inputs);
      target_.model().synchronize();
    };
    attempt([&] {
      for (int i = 0; i < options_.warmup_calls; ++i) {
        renew();
        call();
      }
    });
    ready_.arrive_and_wait();
    go_.wait();
    attempt([&] {
      while (!stop_) {
        renew();
        const Clock::time_point start = Clock::now();
        call();
        samples.push_back(1e3 * seconds_since(start));
        ++done_;
      }
    });
  }

  /// Runs a part of the work. The first error stops all threads.
  template <typename Part>
  void attempt(const Part& part) {
    try {
      part();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stop_ = true;
    }
  }

  const BenchTarget& target_;
  const CallersOptions& options_;
  std::unique_ptr<Batcher> batcher_;
  std::latch ready_;
  std::latch go_{1};
  std::atomic<bool> stop_{false};
  std::atomic<std::int64_t> done_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
  Clock::time_point start_;
  CallersResult result_;
};

}  // namespace

double CallersResult::calls_per_second() const {
  return static_cast<double>(timing.samples_ms.size()) / seconds;
}

CallersResult run_callers(const BenchTarget& target, const CallersOptions& options) {
  if (options.warmup_calls < 0 || options.iterations < 1 || !(options.min_seconds >= 0))
    throw InvalidInput(
        "--callers: expected --warmup-calls >= 0, --iterations >= 1 and --min-seconds >= 0, got " +
        std::to_string(options.warmup_calls) + ", " + std::to_string(options.iterations) + " and " +
        std::to_string(options.min_seconds));
  return Callers(target, options).run();
}

}  // namespace isthmus::cli
