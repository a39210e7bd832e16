#include "isthmus/verify.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "core/bundle/methods.h"
#include "core/proof/compare_golden.h"

namespace isthmus {
namespace {

// Profiling runtimes run other code from the second call of a shape on.
constexpr int kRuns = 2;
constexpr std::size_t kMinCalls = 4;

/// Returns copies on the model's device, because a model may write to its inputs.
Inputs copies(const Model& model, const GoldenCall& call) {
  if (!model.device().is_cpu()) return model.transfer_inputs(call.inputs, call.method);
  Inputs result;
  for (const auto& [name, tensor] : call.inputs) result.add(name, tensor.clone());
  return result;
}

Tensor on_cpu(const Model& model, const Tensor* output) {
  if (output == nullptr || !output->defined()) return {};
  return output->device().is_cpu() ? *output : model.transfer(*output, Device{});
}

/// Adds the result, or keeps the worse one of the same output.
void merge(GoldenParity& golden, OutputParity result) {
  const auto known =
      std::find_if(golden.outputs.begin(), golden.outputs.end(),
                   [&](const OutputParity& earlier) { return earlier.output == result.output; });
  if (known == golden.outputs.end())
    golden.outputs.push_back(std::move(result));
  else
    *known = worse(*known, result);
}

class GoldenRun {
 public:
  GoldenRun(const Model& model, const std::vector<GoldenCall>& calls, int run,
            const RunOptions& options)
      : model_(model), calls_(calls), run_(run), options_(options) {}

  void into(GoldenParity& golden) const {
    try {
      Session session = model_.session();
      for (std::size_t i = 0; i < calls_.size(); ++i) {
        const GoldenCall& call = calls_[i];
        const Signature& signature = model_.signature(call.method);
        const Inputs inputs = copies(model_, call);
        const Outputs outputs = session.call(call.method, inputs, options_);
        for (const ValueSpec& spec : signature.outputs)
          merge(golden, judge(spec.name, call, outputs.find(spec.name), i));
        for (const std::size_t written : signature.writes) {
          const std::string& name = signature.inputs[written].name;
          merge(golden, judge(detail::written_name(name), call, inputs.find(name), i));
        }
      }
    } catch (const std::exception& error) {
      golden.error = error.what() + where(calls_.size() > 1 ? "during the sequence" : "");
    }
  }

 private:
  OutputParity judge(const std::string& output, const GoldenCall& call, const Tensor* given,
                     std::size_t step) const {
    const Tensor actual = on_cpu(model_, given);
    OutputParity result = detail::compare_golden(model_, call, output, &actual);
    if (!result.passed)
      result.reason += where(calls_.size() > 1 ? "in call " + std::to_string(step + 1) + " of " +
                                                     std::to_string(calls_.size())
                                               : "");
    return result;
  }

  // Returns the position in the sequence and the run, when there are several.
  [[nodiscard]] std::string where(const std::string& step) const {
    const std::string run = run_ > 0 ? "in run " + std::to_string(run_ + 1) : "";
    if (step.empty() && run.empty()) return "";
    return " (" + step + (step.empty() || run.empty() ? "" : ", ") + run + ")";
  }

  const Model& model_;
  const std::vector<GoldenCall>& calls_;
  int run_;
  const RunOptions& options_;
};

}  // namespace

ParityResult verify(const Model& model, const std::function<void(std::string_view)>& progress,
                    const RunOptions& options) {
  const LoadReport& report = model.load_report();
  ParityResult result{.engine = report.engine,
                      .runtime = report.runtime,
                      .device = report.device,
                      .artifact = report.artifact,
                      .goldens = {},
                      .error = ""};
  const std::vector<const Golden*> goldens = model.bundle().manifest().goldens_of(model.artifact());
  if (goldens.empty()) {
    result.error =
        "the bundle has no goldens, so there is nothing to compare with; export the model again";
    return result;
  }

  std::size_t count = 0;
  for (const Golden* golden : goldens) {
    count += golden->steps.size();
    result.goldens.push_back({.golden = golden->name, .outputs = {}, .error = ""});
  }
  const std::size_t needed = count == 0 ? 1 : (kMinCalls + count - 1) / count;
  const int runs = std::max(kRuns, static_cast<int>(needed));
  for (int run = 0; run < runs; ++run) {
    for (std::size_t i = 0; i < goldens.size(); ++i) {
      GoldenParity& golden = result.goldens[i];
      if (run == 0 && progress) progress(golden.golden);
      // Read again for each run, because all goldens together may not fit into memory.
      if (golden.error.empty())
        GoldenRun(model, model.bundle().golden(*goldens[i]), run, options).into(golden);
    }
  }
  return result;
}

}  // namespace isthmus
