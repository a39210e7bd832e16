#include "cli/batched.h"

#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "cli/progress.h"
#include "isthmus/error.h"

namespace isthmus::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kProgressInterval = 64;  // answers between two progress messages

}  // namespace

void add_batched_options(CLI::App& app, BatchedOptions& options) {
  app.add_flag("--batch", options.batch,
               "Treat the calls of the file as independent requests, and run those of similar "
               "length together");
  add_batch_limits(app, options.limits);
}

void add_batch_limits(CLI::App& app, BatcherOptions& limits) {
  app.add_option("--workers", limits.workers, "With --batch: calls at once (with --threads each)");
  app.add_option("--max-requests", limits.max_requests, "With --batch: requests in one call");
  app.add_option("--max-elements", limits.max_elements,
                 "With --batch: rows times longest length of one call; 0: no limit");
  app.add_option("--max-padding", limits.max_padding,
                 "With --batch: share of a call that may be padding");
  app.add_option_function<double>(
         "--max-wait-ms",
         [&limits](double value) {
           limits.max_wait = std::chrono::microseconds(static_cast<std::int64_t>(1e3 * value));
         },
         "With --batch: how long a request may wait for others while a worker is idle")
      ->check(CLI::Range(0.0, 60e3));
}

Batched run_batched(const Model& model, const InputFile& file, const BatchedOptions& options) {
  if (!file.sequence)
    throw InvalidInput(
        "--batch: expected a file of many calls, with keys like 0/in/x and 1/in/x, "
        "got one call; leave --batch out");
  BatcherOptions limits = options.limits;
  if (!file.calls.empty()) limits.method = file.calls.front().method;
  for (const GoldenCall& call : file.calls)
    if (call.method != limits.method)
      throw InvalidInput("--batch: expected calls of one method, got \"" + limits.method +
                         "\" and \"" + call.method + "\"; run them without --batch");
  Batched result;
  const Clock::time_point start = Clock::now();
  Batcher batcher(model, limits);
  std::vector<std::future<Outputs>> answers;
  answers.reserve(file.calls.size());
  for (std::size_t step = 0; step < file.calls.size(); ++step) {
    try {
      answers.push_back(batcher.submit(file.calls[step].inputs));
    } catch (const InvalidInput& error) {
      batcher.close(Pending::kCancel);
      throw InvalidInput("request " + std::to_string(step) + ": " + error.what());
    }
  }
  const Progress progress(answers.size(), "requests");
  for (std::size_t step = 0; step < answers.size(); ++step) {
    for (const auto& [name, tensor] : answers[step].get())
      if (tensor.defined()) result.outputs.add(std::to_string(step) + "/out/" + name, tensor);
    if ((step + 1) % kProgressInterval == 0) progress.show(step + 1);
  }
  result.ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  result.stats = batcher.stats();
  result.notes = batcher.notes();
  return result;
}

Facts Batched::facts() const {
  const double share = stats.elements == 0 ? 0
                                           : 100.0 * static_cast<double>(stats.padding) /
                                                 static_cast<double>(stats.elements);
  Facts facts{{"requests", std::to_string(stats.requests)},
              {"calls", std::to_string(stats.calls)},
              {"padding", number(share) + " % of the elements"},
              {"requests a second", number(1e3 * static_cast<double>(stats.requests) / ms, 4)}};
  add_notes(facts, notes, "batching");
  return facts;
}

}  // namespace isthmus::cli
