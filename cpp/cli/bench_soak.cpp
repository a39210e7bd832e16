#include "cli/bench_soak.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <random>
#include <thread>

#include "cli/calls.h"
#include "cli/progress.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"
#include "isthmus/timing.h"

namespace isthmus::cli {
namespace {

using Clock = std::chrono::steady_clock;
using Sequence = std::vector<GoldenCall>;

constexpr std::size_t kParts = 40;  ///< memory is read after each part
constexpr double kAllocatorBytes = 4e6;
constexpr double kBytesPerCall = 160;

/// Returns the calls of all goldens, with inputs on the model's device unless the call writes them.
std::vector<Sequence> sequences_of(const Model& model) {
  std::vector<Sequence> sequences;
  for (const Golden* golden : model.bundle().manifest().goldens_of(model.artifact())) {
    Sequence calls = model.bundle().golden(*golden);
    for (GoldenCall& call : calls)
      if (model.signature(call.method).writes.empty())
        call.inputs = model.transfer_inputs(call.inputs, call.method);
    if (!calls.empty()) sequences.push_back(std::move(calls));
  }
  if (sequences.empty())
    throw InvalidInput("--soak calls with the bundle's goldens, and it has none; export it again");
  model.synchronize();
  return sequences;
}

/// Makes at least `wanted` calls and returns their number.
std::int64_t call_at_random(const Model& model, const std::vector<Sequence>& sequences,
                            std::int64_t wanted, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<std::size_t> any(0, sequences.size() - 1);
  std::int64_t calls = 0;
  while (calls < wanted) {
    Session session = model.session();
    for (const GoldenCall& call : sequences[any(random)]) {
      const bool writes = !model.signature(call.method).writes.empty();
      (void)session.call(call.method,
                         writes ? own_inputs(model, call.inputs, call.method) : call.inputs);
      ++calls;
    }
    model.synchronize();
  }
  return calls;
}

/// Makes one part of the calls from new threads. Returns their number.
std::int64_t run_part(const Model& model, const std::vector<Sequence>& sequences,
                      const SoakOptions& options, std::size_t index) {
  const auto callers = static_cast<std::size_t>(options.callers);
  const std::int64_t parts = static_cast<std::int64_t>(kParts) * options.callers;
  const std::int64_t each = (options.calls + parts - 1) / parts;
  std::mutex mutex;
  std::exception_ptr error;
  std::int64_t total = 0;
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < callers; ++i)
      threads.emplace_back([&, i] {
        try {
          const auto seed = static_cast<unsigned>(index * callers + i);
          const std::int64_t calls = call_at_random(model, sequences, each, seed);
          const std::lock_guard lock(mutex);
          total += calls;
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!error) error = std::current_exception();
        }
      });
  }
  if (error) std::rethrow_exception(error);
  return total;
}

/// Returns the median of a quarter of the readings, 0 to 3; the first reading belongs to none.
double quarter_median(const std::vector<std::int64_t>& readings, std::size_t which) {
  const std::size_t quarter = (readings.size() - 1) / 4;
  const auto begin = readings.begin() + 1 + static_cast<std::ptrdiff_t>(which * quarter);
  const std::vector<double> part(begin, begin + static_cast<std::ptrdiff_t>(quarter));
  return percentile(part, 0.5);
}

}  // namespace

double SoakResult::early() const {
  return quarter_median(resident_bytes, 1);
}

double SoakResult::late() const {
  return quarter_median(resident_bytes, 3);
}

double SoakResult::allowed() const {
  return std::max(kAllocatorBytes, kBytesPerCall * static_cast<double>(calls) / 2);
}

SoakResult run_soak(const Model& model, const SoakOptions& options) {
  const std::vector<Sequence> sequences = sequences_of(model);
  SoakResult result;
  result.goldens = sequences.size();
  const Progress progress(kParts, "parts");
  const Clock::time_point start = Clock::now();
  result.resident_bytes.push_back(resident_memory_bytes());
  for (std::size_t i = 0; i < kParts; ++i) {
    result.calls += run_part(model, sequences, options, i);
    result.resident_bytes.push_back(resident_memory_bytes());
    progress.show(i + 1);
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

}  // namespace isthmus::cli
