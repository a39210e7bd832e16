#include "cli/batched.h"
#include "cli/bench_callers.h"
#include "cli/bench_soak.h"
#include "cli/bench_target.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/options.h"
#include "isthmus/machine.h"
#include "isthmus/timing.h"

namespace isthmus::cli {
namespace {

struct BenchOptions {
  CommonOptions common;
  BenchInputs inputs;
  int warmup_calls = 10;
  int iterations = 100;
  double min_seconds = 1;
  bool worker = false;
  CallersOptions callers;
  SoakOptions soak;
};

Json percentile_json(double value) {
  return value < 0 ? Json() : Json(value);
}
std::string percentile_text(double value) {
  return value < 0 ? "-" : number(value, 4);
}

ReportRow row_of(const BenchTarget& target, const TimingResult& timing) {
  const LoadReport& report = target.model().load_report();
  const double per_second = 1e3 / timing.mean_ms;
  const std::int64_t peak = peak_memory_bytes();
  Json json{{"inputs", target.inputs_name()},
            {"samples", timing.samples_ms.size()},
            {"median_ms", timing.median_ms},
            {"mean_ms", timing.mean_ms},
            {"min_ms", timing.min_ms},
            {"p90_ms", percentile_json(timing.p90_ms)},
            {"p99_ms", percentile_json(timing.p99_ms)},
            {"calls_per_second", per_second},
            {"first_call_ms", target.first_call_ms()},
            {"read_ms", report.read_ms},
            {"load_ms", report.load_ms},
            {"warmup_ms", report.warmup_ms},
            {"total_load_ms", report.total_ms},
            {"peak_rss_bytes", peak},
            {"samples_ms", timing.samples_ms}};
  return {.cells = {{"inputs", target.inputs_name()},
                    {"median ms", number(timing.median_ms, 4)},
                    {"p90 ms", percentile_text(timing.p90_ms)},
                    {"p99 ms", percentile_text(timing.p99_ms)},
                    {"min ms", number(timing.min_ms, 4)},
                    {"calls/s", number(per_second, 4)},
                    {"first call ms", number(target.first_call_ms(), 4)},
                    {"load ms", number(report.read_ms + report.load_ms, 4)},
                    {"warm-up ms", number(report.warmup_ms, 4)},
                    {"peak memory", bytes(static_cast<std::uint64_t>(peak))},
                    {"samples", std::to_string(timing.samples_ms.size())}},
          .json = dump(json)};
}

ReportRow row_of(const BenchTarget& target, const CallersResult& result, bool batch) {
  const TimingResult& timing = result.timing;
  const double longest = percentile(timing.samples_ms, 1);
  const std::int64_t peak = peak_memory_bytes();
  const std::size_t callers = result.calls_by_caller.size();
  Json json{{"inputs", target.inputs_name()},
            {"callers", callers},
            {"batch", batch},
            {"samples", timing.samples_ms.size()},
            {"seconds", result.seconds},
            {"calls_per_second", result.calls_per_second()},
            {"median_ms", timing.median_ms},
            {"p90_ms", percentile_json(timing.p90_ms)},
            {"p99_ms", percentile_json(timing.p99_ms)},
            {"max_ms", longest},
            {"calls_by_caller", result.calls_by_caller},
            {"process_threads", result.threads},
            {"peak_rss_bytes", peak},
            {"samples_ms", timing.samples_ms}};
  if (batch)
    json.update({{"model_calls", result.batcher.calls},
                 {"requests", result.batcher.requests},
                 {"longest_wait_ms", result.batcher.longest_wait_ms},
                 {"longest_call_ms", result.batcher.longest_call_ms}});
  return {.cells = {{"inputs", target.inputs_name()},
                    {"callers", std::to_string(callers) + (batch ? ", batched" : "")},
                    {"calls/s", number(result.calls_per_second(), 4)},
                    {"median ms", number(timing.median_ms, 4)},
                    {"p90 ms", percentile_text(timing.p90_ms)},
                    {"p99 ms", percentile_text(timing.p99_ms)},
                    {"max ms", number(longest, 4)},
                    {"peak memory", bytes(static_cast<std::uint64_t>(peak))},
                    {"threads", std::to_string(result.threads)},
                    {"samples", std::to_string(timing.samples_ms.size())}},
          .json = dump(json)};
}

ReportRow row_of(const SoakResult& result, int callers) {
  const auto memory = [](double value) { return bytes(static_cast<std::uint64_t>(value)); };
  const double growth = result.growth();
  const double per_1000 = growth / static_cast<double>(result.calls) * 2e3;
  const double per_second = static_cast<double>(result.calls) / result.seconds;
  Json json{{"calls", result.calls},
            {"callers", callers},
            {"goldens", result.goldens},
            {"seconds", result.seconds},
            {"calls_per_second", per_second},
            {"resident_bytes", result.resident_bytes},
            {"second_quarter_bytes", result.early()},
            {"last_quarter_bytes", result.late()},
            {"growth_bytes", growth},
            {"growth_bytes_per_1000_calls", per_1000},
            {"allowed_bytes", result.allowed()},
            {"peak_rss_bytes", peak_memory_bytes()}};
  return {.cells = {{"calls", std::to_string(result.calls)},
                    {"callers", std::to_string(callers)},
                    {"goldens", std::to_string(result.goldens)},
                    {"calls/s", number(per_second, 4)},
                    {"loaded", memory(static_cast<double>(result.resident_bytes.front()))},
                    {"second quarter", memory(result.early())},
                    {"last quarter", memory(result.late())},
                    {"growth kB", number(growth / 1e3, 4)},
                    {"per 1000 calls kB", number(per_1000 / 1e3, 3)}},
          .json = dump(json),
          .passed = growth <= result.allowed()};
}

int report(const BenchOptions& options, const Model& model, const ReportRow& row,
           const std::string& verdict, const std::vector<std::string>& batching = {}) {
  const auto reporter = make_reporter(options.common, "bench", "isthmus-run bench");
  Facts facts = context_of(model);
  add_notes(facts, model.load_report().notes);
  add_notes(facts, batching, "batching");
  for (const WarmupReport& warmup : model.load_report().warmup)
    facts.emplace_back("warm-up " + warmup.golden,
                       count(static_cast<std::size_t>(warmup.calls), "call") + ", " +
                           milliseconds(warmup.first_ms) + " to " + milliseconds(warmup.steady_ms) +
                           (warmup.steady ? "" : ", not steady"));
  add_notes(facts, timing_warnings(this_machine()), "warning");
  reporter->context(facts);
  reporter->row(row);
  reporter->finish(row.passed, verdict);
  return row.passed ? kExitGood : kExitParity;
}

/// Returns a note about the percentiles that need more samples; empty when there are enough.
std::string missing_percentiles(const TimingResult& timing) {
  if (timing.p99_ms >= 0) return {};
  return "p90 needs " + std::to_string(kMinSamplesP90) + " samples or more, p99 " +
         std::to_string(kMinSamplesP99) + "; see --iterations and --min-seconds";
}

int run_soak_command(const BenchOptions& options) {
  SoakOptions soak = options.soak;
  if (options.callers.callers > 0) soak.callers = options.callers.callers;
  const Model model = Model::load(options.common.bundle, options.common.load_options());
  const SoakResult result = run_soak(model, soak);
  const ReportRow row = row_of(result, soak.callers);
  return report(options, model, row,
                std::string(row.passed ? "memory is steady" : "memory grows") +
                    ": growth is from the second quarter of the calls to the last, at most " +
                    bytes(static_cast<std::uint64_t>(result.allowed())) + " of it is noise");
}

int run_concurrent(const BenchOptions& options) {
  CallersOptions callers = options.callers;
  callers.warmup_calls = options.warmup_calls;
  callers.iterations = options.iterations;
  callers.min_seconds = options.min_seconds;
  const BenchTarget target(options.common.bundle, options.common.load_options(), options.inputs);
  const CallersResult result = run_callers(target, callers);
  return report(options, target.model(), row_of(target, result, callers.batch),
                missing_percentiles(result.timing), result.notes);
}

int run(const BenchOptions& options) {
  BenchTarget target(options.common.bundle, options.common.load_options(), options.inputs);
  const TimingResult timing =
      time_calls([&] { target.call(); }, {.warmup = options.warmup_calls,
                                          .iterations = options.iterations,
                                          .min_seconds = options.min_seconds,
                                          .between = [&] { target.between(); }});
  return report(options, target.model(), row_of(target, timing), missing_percentiles(timing));
}

int dispatch(const BenchOptions& options) {
  if (options.soak.calls > 0) return run_soak_command(options);
  if (options.callers.callers > 0) return run_concurrent(options);
  if (!options.worker) return run(options);
  return serve_bench(options.common.bundle, options.common.load_options(), options.inputs);
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("bench", "Times calls, the load and the first call");
  const auto options = std::make_shared<BenchOptions>();
  options->common.load.specials = Specials::kAllow;  // goldens may have them
  options->common.unproven = "allow";                // it measures whatever is asked for
  add_bundle(*command, options->common);
  auto* golden =
      command->add_option("--golden", options->inputs.golden,
                          "Time the first call of this golden; default: the first warm-up shape");
  command->add_option("--inputs,-i", options->inputs.file, "Time this .safetensors or .npz instead")
      ->excludes(golden);
  command->add_option("--method", options->inputs.method, "Method to call on --inputs");
  command->add_option("--warmup-calls", options->warmup_calls, "Calls made first, and not counted");
  command->add_option("--iterations", options->iterations, "Calls to count at least");
  command->add_option("--min-seconds", options->min_seconds, "Seconds to time at least");
  auto* worker =
      command->add_flag("--worker", options->worker,
                        "Serve `run N` and `quit` lines of standard input, each with a JSON line");
  auto* callers = command
                      ->add_option("--callers", options->callers.callers,
                                   "Threads that call the model at the same time")
                      ->check(CLI::Range(1, 1024))
                      ->excludes(worker);
  auto* batch = command
                    ->add_flag("--batch", options->callers.batch,
                               "With --callers: send their requests through a Batcher")
                    ->needs(callers);
  command
      ->add_option("--soak", options->soak.calls,
                   "Make this many calls with all goldens, from threads that start and end "
                   "(--callers, 2 by default), and fail when memory grows")
      ->check(CLI::Range(std::int64_t{1000}, std::int64_t{1'000'000'000}))
      ->excludes(worker)
      ->excludes(batch)
      ->excludes(golden)
      ->excludes("--inputs");
  add_batch_limits(*command, options->callers.limits);

  add_load_options(*command, options->common);
  add_json(*command, options->common);
  command->callback([options, &action] { action = [options] { return dispatch(*options); }; });
}

}  // namespace isthmus::cli
