#include <charconv>
#include <iostream>
#include <string>
#include <string_view>

#include "cli/bench_subject.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"
#include "isthmus/timing.h"

namespace isthmus::cli {
namespace {

constexpr int kMaxCalls = 10'000'000;

void say(const Json& event) {
  std::cout << dump(event) << std::endl;
}

Json ready(const BenchSubject& subject, const LoadOptions& options) {
  const LoadReport& report = subject.model().load_report();
  Json warmup = Json::array();
  for (const WarmupReport& one : report.warmup)
    warmup.push_back({{"golden", one.golden},
                      {"calls", one.calls},
                      {"first_ms", one.first_ms},
                      {"steady_ms", one.steady_ms},
                      {"steady", one.steady}});
  return {{"event", "ready"},
          {"engine", report.engine},
          {"runtime", report.runtime},
          {"artifact", report.artifact},
          {"device", report.device},
          {"threads", options.threads},
          {"inputs", subject.inputs_name()},
          {"read_ms", report.read_ms},
          {"load_ms", report.read_ms + report.load_ms},
          {"warmup_ms", report.warmup_ms},
          {"warmup", std::move(warmup)},
          {"first_call_ms", subject.first_call_ms()},
          {"notes", report.notes},
          {"warnings", timing_warnings(this_machine())}};
}

// N of "run N"; 0 when the line is something else.
int calls_of(std::string_view line) {
  constexpr std::string_view kRun = "run ";
  if (!line.starts_with(kRun)) return 0;
  int calls = 0;
  const char* const end = line.data() + line.size();
  const auto [rest, error] = std::from_chars(line.data() + kRun.size(), end, calls);
  return error == std::errc{} && rest == end && calls >= 1 && calls <= kMaxCalls ? calls : 0;
}

void serve(BenchSubject& subject) {
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "quit") break;
    const int calls = calls_of(line);
    if (calls == 0) {
      say({{"event", "error"},
           {"message", "expected `run N` with N from 1 to " + std::to_string(kMaxCalls) +
                           ", or `quit`, got: " + line}});
      continue;
    }
    const TimingResult timing =
        time_calls([&] { subject.call(); },
                   {.warmup = 0, .iterations = calls, .min_seconds = 0, .between = [&] {
                      subject.between();
                    }});
    say({{"event", "samples"}, {"samples_ms", timing.samples_ms}});
  }
  say({{"event", "done"}, {"peak_rss_bytes", peak_memory_bytes()}});
}

}  // namespace

int serve_bench(const std::filesystem::path& bundle, const LoadOptions& options,
                const BenchInputs& inputs) {
  try {
    BenchSubject subject(bundle, options, inputs);
    say(ready(subject, options));
    serve(subject);
  } catch (const Error& error) {
    say({{"event", "error"}, {"message", error.what()}});
    throw;
  }
  return kExitGood;
}

}  // namespace isthmus::cli
