#include <charconv>
#include <iostream>
#include <string>
#include <string_view>

#include "cli/bench_target.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"
#include "isthmus/timing.h"

namespace isthmus::cli {
namespace {

constexpr int kMaxCalls = 10'000'000;

void write(const Json& event) {
  std::cout << dump(event) << std::endl;
}

Json ready(const BenchTarget& target) {
  const LoadReport& report = target.model().load_report();
  Json warmup = Json::array();
  for (const WarmupReport& shape : report.warmup)
    warmup.push_back({{"golden", shape.golden},
                      {"calls", shape.calls},
                      {"first_ms", shape.first_ms},
                      {"steady_ms", shape.steady_ms},
                      {"steady", shape.steady}});
  return {{"event", "ready"},
          {"engine", report.engine},
          {"runtime", report.runtime},
          {"artifact", report.artifact},
          {"device", report.device},
          {"threads", report.threads},
          {"inputs", target.inputs_name()},
          {"read_ms", report.read_ms},
          {"load_ms", report.read_ms + report.load_ms},
          {"warmup_ms", report.warmup_ms},
          {"warmup", std::move(warmup)},
          {"first_call_ms", target.first_call_ms()},
          {"notes", report.notes},
          {"warnings", timing_warnings(this_machine())}};
}

/// Returns N for "run N", and 0 for any other line.
int calls_of(std::string_view line) {
  constexpr std::string_view kRun = "run ";
  if (!line.starts_with(kRun)) return 0;
  int calls = 0;
  const char* const end = line.data() + line.size();
  const auto [rest, error] = std::from_chars(line.data() + kRun.size(), end, calls);
  return error == std::errc{} && rest == end && calls >= 1 && calls <= kMaxCalls ? calls : 0;
}

void serve(BenchTarget& target) {
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "quit") break;
    const int calls = calls_of(line);
    if (calls == 0) {
      write({{"event", "error"},
             {"message", "expected `run N` with N from 1 to " + std::to_string(kMaxCalls) +
                             ", or `quit`, got: " + line}});
      continue;
    }
    const TimingResult timing = time_calls(
        [&] { target.call(); },
        {.warmup = 0, .iterations = calls, .min_seconds = 0, .between = [&] { target.between(); }});
    write({{"event", "samples"}, {"samples_ms", timing.samples_ms}});
  }
  write({{"event", "done"}, {"peak_rss_bytes", peak_memory_bytes()}});
}

}  // namespace

int serve_bench(const std::filesystem::path& bundle, const LoadOptions& options,
                const BenchInputs& inputs) {
  try {
    BenchTarget target(bundle, options, inputs);
    write(ready(target));
    serve(target);
  } catch (const Error& error) {
    write({{"event", "error"}, {"message", error.what()}});
    throw;
  }
  return kExitGood;
}

}  // namespace isthmus::cli
