#include "core/runtime/warmup.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "core/bundle/methods.h"
#include "core/runtime/transfer.h"
#include "core/timing/clock.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

constexpr int kLastCalls = 3;  // calls that are compared with the fastest
constexpr int kMaxCalls = 25;
constexpr double kMinMs = 5;  // more than kMaxCalls short calls, which interruptions make unsteady
constexpr double kMaxMs = 3000;
constexpr double kSteadyRatio = 1.3;
constexpr double kSettledRatio = 1.1;
constexpr double kSettleMs = 100;

using detail::Clock;
using detail::ms_since;

struct PreparedCall {
  std::size_t method;
  std::vector<Tensor> inputs;
};

std::vector<PreparedCall> prepare(const Bundle& bundle, const Golden& golden,
                                  Executable& executable, Device device) {
  const auto& methods = bundle.manifest().methods;
  std::vector<PreparedCall> calls;
  for (const GoldenCall& call : bundle.golden(golden)) {
    const std::size_t method = detail::method_index(bundle.manifest(), call.method, "the model");
    PreparedCall prepared{method, check_inputs(methods[method], call.inputs, Device{})};
    detail::transfer_tensors(methods[method], prepared.inputs, [&](const Tensor& tensor) {
      return executable.transfer(tensor, device);
    });
    calls.push_back(std::move(prepared));
  }
  return calls;
}

/// Makes the calls in order and returns their total duration in milliseconds.
double run_once(const std::vector<PreparedCall>& calls, Executable& executable) {
  const auto start = Clock::now();
  for (const PreparedCall& call : calls) (void)executable.run(call.method, call.inputs);
  executable.synchronize();
  return ms_since(start);
}

WarmupReport warm_up_golden(const Bundle& bundle, const Golden& golden, Executable& executable,
                            Device device, const std::atomic<bool>& stop) {
  const std::vector<PreparedCall> calls = prepare(bundle, golden, executable, device);
  WarmupReport report;
  report.golden = golden.name;
  double fastest = std::numeric_limits<double>::max();
  std::array<double, kLastCalls> last{};
  const auto start = Clock::now();
  auto steady_since = start;
  const auto more = [&] {
    const double ms = ms_since(start);
    return ms < kMinMs || (report.calls < kMaxCalls && ms < kMaxMs);
  };
  while (!stop && more()) {
    const double ms = run_once(calls, executable);
    last[static_cast<std::size_t>(report.calls) % kLastCalls] = ms;
    if (report.calls++ == 0) report.first_ms = ms;
    fastest = std::min(fastest, ms);
    report.steady_ms = ms;
    if (report.calls < kLastCalls) continue;
    const double slowest = *std::max_element(last.begin(), last.end());
    if (!report.steady && slowest <= kSteadyRatio * fastest) {
      report.steady = true;
      steady_since = Clock::now();
    }
    // Caches and processor clocks become steady later than the runtime.
    if (slowest <= kSettledRatio * fastest) break;
    if (report.steady && ms_since(steady_since) > kSettleMs) break;
  }
  if (stop || !executable.prepares()) return report;
  bool changed = false;
  for (const PreparedCall& call : calls)
    if (executable.prepare(call.method, call.inputs)) changed = true;
  if (changed) {
    report.steady_ms = run_once(calls, executable);
    ++report.calls;
  }
  return report;
}

/// Returns the goldens of the manifest's list, and with `every_shape` one of each further shape.
std::vector<const Golden*> goldens_to_run(const Manifest& manifest, const Artifact& artifact,
                                          bool every_shape) {
  std::vector<const Golden*> goldens;
  const std::vector<const Golden*> served = manifest.goldens_of(artifact);
  for (const std::string& name : manifest.warmup) {
    const auto found = std::find_if(served.begin(), served.end(),
                                    [&](const Golden* golden) { return golden->name == name; });
    if (found != served.end()) goldens.push_back(*found);
  }
  if (!every_shape) return goldens;
  const auto same_shape = [](const Golden& a, const Golden& b) {
    return a.dims == b.dims &&
           std::equal(a.steps.begin(), a.steps.end(), b.steps.begin(), b.steps.end(),
                      [](const auto& x, const auto& y) { return x.method == y.method; });
  };
  for (const Golden* golden : served)
    if (std::none_of(goldens.begin(), goldens.end(),
                     [&](const Golden* known) { return same_shape(*known, *golden); }))
      goldens.push_back(golden);
  return goldens;
}

}  // namespace

std::vector<WarmupReport> warm_up(const Bundle& bundle, const Artifact& artifact,
                                  Executable& executable, Device device,
                                  const std::atomic<bool>& stop) {
  std::vector<WarmupReport> reports;
  for (const Golden* golden : goldens_to_run(bundle.manifest(), artifact, executable.prepares())) {
    if (stop) break;
    try {
      const auto fork = executable.fork();
      reports.push_back(warm_up_golden(bundle, *golden, *fork, device, stop));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("warm-up on golden \"" + golden->name + "\" failed: " + error.what() +
                           "; the model cannot run its own golden here: run `isthmus-run verify`");
    }
  }
  return reports;
}

}  // namespace isthmus
