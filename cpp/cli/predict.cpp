#include <chrono>
#include <cstring>
#include <optional>

#include "cli/batched.h"
#include "cli/calls.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/options.h"
#include "cli/summary.h"
#include "isthmus/error.h"
#include "isthmus/tensor_file.h"

namespace isthmus::cli {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

struct PredictOptions {
  CommonOptions common;
  std::string inputs;
  std::string output;
  std::vector<std::string> methods;
  int repeat = 1;
  bool timing = false;
  BatchedOptions batched;
};

struct Answer {
  NamedTensors outputs;
  std::vector<double> calls_ms;
};

/// Runs the calls once in a fresh session. The outputs of a sequence are named as in a golden; the
/// inputs that a call wrote follow them, as "written/NAME".
Answer answer(const Model& model, const InputFile& file) {
  Answer result;
  Session session = model.session();
  for (std::size_t step = 0; step < file.calls.size(); ++step) {
    const GoldenCall& call = file.calls[step];
    const Clock::time_point start = Clock::now();
    const Inputs inputs = own_inputs(model, call.inputs, call.method);
    Outputs results = session.call(call.method, inputs);
    for (const std::size_t written : model.signature(call.method).writes) {
      const std::string& name = model.signature(call.method).inputs[written].name;
      if (const Tensor* buffer = inputs.find(name)) results.add("written/" + name, *buffer);
    }
    const Outputs outputs = to_cpu(model, results);
    result.calls_ms.push_back(ms_since(start));
    for (const auto& [name, tensor] : outputs)
      result.outputs.add(file.sequence ? std::to_string(step) + "/out/" + name : name, tensor);
  }
  return result;
}

bool same_bytes(const NamedTensors& a, const NamedTensors& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    const Tensor* other = b.find(name);
    if (other == nullptr || other->shape() != tensor.shape()) return false;
    if (tensor.nbytes() > 0 && std::memcmp(tensor.data(), other->data(), tensor.nbytes()) != 0)
      return false;
  }
  return true;
}

/// Returns the duration of each stage, in the order of the stages.
Facts timing_facts(const Model& model, double inputs_ms, const std::vector<double>& calls_ms,
                   double total_ms) {
  const LoadReport& report = model.load_report();
  Facts facts{{"read inputs", milliseconds(inputs_ms)},
              {"read and hash files", milliseconds(report.read_ms)},
              {"engine load", milliseconds(report.load_ms)}};
  if (!report.warmup.empty()) facts.emplace_back("warm-up", milliseconds(report.warmup_ms));
  facts.emplace_back("load in all", milliseconds(report.total_ms));
  facts.emplace_back("first call", milliseconds(calls_ms.front()));
  if (calls_ms.size() > 1) facts.emplace_back("last call", milliseconds(calls_ms.back()));
  facts.emplace_back("in all", milliseconds(total_ms));
  return facts;
}

/// Runs the requests of a file in batches and reports totals; the answers are only written to -o.
int run_batch(const PredictOptions& options) {
  const InputFile file = read_calls(options.inputs, options.methods);
  const Model model = Model::load(options.common.bundle, options.common.load_options());
  const Batched done = run_batched(model, file, options.batched);
  if (!options.output.empty()) write_safetensors(options.output, done.outputs);
  const auto reporter = make_reporter(options.common, "predict", "isthmus-run predict");
  Facts facts = context_of(model);
  add_notes(facts, model.load_report().notes);
  for (auto& fact : done.facts()) facts.push_back(std::move(fact));
  if (!options.output.empty()) facts.emplace_back("written to", options.output);
  reporter->context(facts);
  reporter->finish(true, "");
  return kExitGood;
}

int run(const PredictOptions& options) {
  if (options.batched.batch) return run_batch(options);
  const Clock::time_point start = Clock::now();
  if (options.repeat < 1)
    throw InvalidInput("--repeat: expected 1 or more, got " + std::to_string(options.repeat));
  const InputFile file = read_calls(options.inputs, options.methods);
  const double inputs_ms = ms_since(start);
  LoadOptions load = options.common.load_options();
  load.few_calls = options.repeat == 1 && !load.warmup;
  const Model model = Model::load(options.common.bundle, load);

  Answer first = answer(model, file);
  bool same = true;
  for (int i = 1; i < options.repeat; ++i) {
    const Answer again = answer(model, file);
    same &= same_bytes(first.outputs, again.outputs);
    first.calls_ms.insert(first.calls_ms.end(), again.calls_ms.begin(), again.calls_ms.end());
  }
  if (!options.output.empty()) write_safetensors(options.output, first.outputs);
  const double total_ms = ms_since(start);

  const auto reporter = make_reporter(options.common, "predict", "isthmus-run predict");
  Facts facts = context_of(model);
  add_notes(facts, model.load_report().notes);
  if (options.repeat > 1)
    facts.emplace_back("repeats", std::to_string(options.repeat) +
                                      (same ? ", the same bytes each time" : ", answers DIFFER"));
  if (!options.output.empty()) facts.emplace_back("written to", options.output);
  if (options.timing)
    for (auto& fact : timing_facts(model, inputs_ms, first.calls_ms, total_ms))
      facts.push_back(std::move(fact));
  reporter->context(facts);
  for (const auto& [name, tensor] : first.outputs) reporter->row(summary_row(name, tensor));
  reporter->finish(true, "");
  return kExitGood;
}

}  // namespace

void add_predict(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("predict", "Runs the model on a file of inputs");
  const auto options = std::make_shared<PredictOptions>();
  // A warm-up would take longer than the one call that follows.
  options->common.load.warmup = false;
  add_bundle(*command, options->common);
  command
      ->add_option("--inputs,-i", options->inputs,
                   ".safetensors or .npz with the inputs by name, or STEP/in/NAME for a sequence")
      ->required();
  command->add_option("--output,-o", options->output, "Write the outputs here, as .safetensors");
  command
      ->add_option("--method", options->methods,
                   "Method to call (default forward); give it once, or once for each call")
      ->allow_extra_args(false);
  command->add_option("--repeat", options->repeat,
                      "Run this many times, each in a fresh session, and compare the bytes");
  command->add_option("--record", options->common.load.record,
                      "Write each call's inputs and outputs to this folder, for isthmus replay");
  add_batched_options(*command, options->batched);
  command->add_flag("--timing", options->timing, "Report the duration of each stage");
  add_load_options(*command, options->common);
  add_json(*command, options->common);
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace isthmus::cli
