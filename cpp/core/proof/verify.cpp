#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "isthmus/parity.h"

namespace isthmus {
namespace {

// The second call of a shape is where a profiling runtime runs other code than in the first.
constexpr int kRuns = 2;
constexpr std::size_t kMinCalls = 4;

/// Copies, on the model's device: a model may write its inputs, and the goldens are used again.
Inputs copies(const Model& model, const GoldenCall& call) {
  if (!model.device().is_cpu()) return model.transfer_inputs(call.inputs, call.method);
  Inputs result;
  for (const auto& [name, tensor] : call.inputs) {
    if (!tensor.defined()) {
      result.add(name, tensor);
      continue;
    }
    const Tensor plain = tensor.contiguous();
    Tensor copy = Tensor::empty(plain.dtype(), plain.shape());
    if (plain.nbytes() != 0) std::memcpy(copy.data(), plain.data(), plain.nbytes());
    result.add(name, std::move(copy));
  }
  return result;
}

Tensor on_cpu(const Model& model, const Tensor* output) {
  if (output == nullptr || !output->defined()) return {};
  return output->device().is_cpu() ? *output : model.transfer(*output, Device{});
}

void merge(GoldenParity& golden, OutputParity found) {
  const auto known =
      std::find_if(golden.outputs.begin(), golden.outputs.end(),
                   [&](const OutputParity& one) { return one.output == found.output; });
  if (known == golden.outputs.end())
    golden.outputs.push_back(std::move(found));
  else
    *known = worse(*known, found);
}

class GoldenRun {
 public:
  GoldenRun(const Model& model, const std::vector<GoldenCall>& calls, int run)
      : model_(model), calls_(calls), run_(run) {}

  void into(GoldenParity& golden) const {
    try {
      Session session = model_.session();
      for (std::size_t i = 0; i < calls_.size(); ++i) {
        const GoldenCall& call = calls_[i];
        const Outputs outputs = session.call(call.method, copies(model_, call));
        for (const ValueSpec& spec : model_.signature(call.method).outputs)
          merge(golden, judge(spec.name, call, outputs, i));
      }
    } catch (const std::exception& error) {
      golden.error = error.what() + where(calls_.size() > 1 ? "during the sequence" : "");
    }
  }

 private:
  OutputParity judge(const std::string& output, const GoldenCall& call, const Outputs& outputs,
                     std::size_t step) const {
    const auto& tolerances = model_.artifact().tolerances;
    const auto tolerance = tolerances.find(output);
    const auto& floors = model_.bundle().manifest().noise_floor;
    const auto noise = floors.find(output);
    const Tensor* expected = call.outputs.find(output);
    const Tensor* own_error = call.errors.find(output);
    OutputParity found = compare(output, expected == nullptr ? Tensor{} : *expected,
                                 on_cpu(model_, outputs.find(output)),
                                 tolerance == tolerances.end() ? Tolerance{} : tolerance->second,
                                 noise == floors.end() ? nullptr : &noise->second,
                                 own_error == nullptr ? Tensor{} : *own_error);
    if (!found.passed)
      found.reason += where(calls_.size() > 1 ? "in call " + std::to_string(step + 1) + " of " +
                                                    std::to_string(calls_.size())
                                              : "");
    return found;
  }

  // Where in the sequence and in which run, when that says more than the golden's name.
  [[nodiscard]] std::string where(const std::string& step) const {
    const std::string run = run_ > 0 ? "in run " + std::to_string(run_ + 1) : "";
    if (step.empty() && run.empty()) return "";
    return " (" + step + (step.empty() || run.empty() ? "" : ", ") + run + ")";
  }

  const Model& model_;
  const std::vector<GoldenCall>& calls_;
  int run_;
};

}  // namespace

ParityResult verify(const Model& model, void (*progress)(const char* golden, void* context),
                    void* context) {
  const LoadReport& report = model.load_report();
  ParityResult result{.engine = report.engine,
                      .runtime = report.runtime,
                      .device = report.device,
                      .artifact = report.artifact,
                      .goldens = {},
                      .error = ""};
  const std::vector<Golden>& goldens = model.bundle().manifest().goldens;
  if (goldens.empty()) {
    result.error =
        "the bundle has no goldens, so there is nothing to compare with; export the model again";
    return result;
  }

  std::vector<std::vector<GoldenCall>> calls;
  std::size_t count = 0;
  for (const Golden& golden : goldens) {
    calls.push_back(model.bundle().golden(golden));
    count += calls.back().size();
    result.goldens.push_back({.golden = golden.name, .outputs = {}, .error = ""});
  }
  const std::size_t needed = count == 0 ? 1 : (kMinCalls + count - 1) / count;
  const int runs = std::max(kRuns, static_cast<int>(needed));
  for (int run = 0; run < runs; ++run) {
    for (std::size_t i = 0; i < goldens.size(); ++i) {
      GoldenParity& golden = result.goldens[i];
      if (run == 0 && progress != nullptr) progress(golden.golden.c_str(), context);
      if (golden.error.empty()) GoldenRun(model, calls[i], run).into(golden);
    }
  }
  return result;
}

}  // namespace isthmus
