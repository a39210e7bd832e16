#include "cli/bench_target.h"

#include <chrono>

#include "cli/calls.h"
#include "isthmus/error.h"

namespace isthmus::cli {
namespace {

using Clock = std::chrono::steady_clock;

/// Returns the golden of this name; for an empty name, the first one of the warm-up or of all.
const Golden& find_golden(const Manifest& manifest, const std::string& wanted) {
  std::string name = wanted;
  if (name.empty() && !manifest.warmup.empty()) name = manifest.warmup.front();
  if (manifest.goldens.empty())
    throw InvalidInput("the bundle has no goldens to time; give a file with --inputs");
  if (name.empty()) return manifest.goldens.front();
  std::string names;
  for (const Golden& golden : manifest.goldens) {
    if (golden.name == name) return golden;
    names += (names.empty() ? "\"" : ", \"") + golden.name + "\"";
  }
  throw InvalidInput("the bundle has no golden \"" + name + "\"; it has " + names);
}

}  // namespace

BenchTarget::BenchTarget(const std::filesystem::path& bundle, const LoadOptions& options,
                         const BenchInputs& inputs)
    : model_(Model::load(bundle, options)), session_(model_.session()) {
  choose(inputs);
  const Clock::time_point start = Clock::now();
  call();
  first_call_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void BenchTarget::choose(const BenchInputs& inputs) {
  GoldenCall call;
  if (!inputs.file.empty()) {
    InputFile file = read_calls(inputs.file, {inputs.method});
    if (file.calls.size() != 1)
      throw InvalidInput(inputs.file + " holds " + std::to_string(file.calls.size()) +
                         " calls; bench times one call: give a file with plain names of inputs");
    call = std::move(file.calls.front());
    name_ = inputs.file;
  } else {
    const Golden& golden = find_golden(model_.bundle().manifest(), inputs.golden);
    std::vector<GoldenCall> calls = model_.bundle().golden(golden);
    if (calls.empty())
      throw InvalidInput("the golden \"" + golden.name + "\" holds no call; choose another");
    call = std::move(calls.front());
    name_ = golden.name;
  }
  method_ = call.method;
  given_ = std::move(call.inputs);
  inputs_ = own_inputs();
  model_.synchronize();
}

void BenchTarget::call() {
  answer_ = session_.call(method_, inputs_);
  model_.synchronize();
}

Inputs BenchTarget::own_inputs() const {
  return cli::own_inputs(model_, given_, method_);
}

void BenchTarget::between() {
  answer_ = {};
  if (writes()) inputs_ = own_inputs();
  model_.synchronize();
}

}  // namespace isthmus::cli
