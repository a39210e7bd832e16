#include "core/proof/special_proof.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>

#include "core/tensor/elements.h"
#include "isthmus/error.h"
#include "isthmus/parity.h"
#include "isthmus/verify.h"

namespace isthmus {
namespace {

/// Seconds after which a call is stopped, on engines that can: a loop with a negative count may
/// never end.
constexpr double kTimeout = 20;

/// Calls a function with each finite element of a tensor of real numbers.
template <typename Function>
void each_finite(const Tensor& tensor, Function function) {
  visit_elements(tensor.contiguous(), [&](const auto& elements) {
    using Element = typename std::decay_t<decltype(elements)>::value_type;
    if constexpr (std::is_convertible_v<Element, double>)
      for (std::int64_t i = 0; i < elements.size; ++i)
        if (const auto value = static_cast<double>(elements[i]); std::isfinite(value))
          function(value);
  });
}

double largest_of(const Tensor& tensor) {
  double largest = 0;
  each_finite(tensor, [&](double value) { largest = std::max(largest, std::abs(value)); });
  return largest;
}

/// Compares the answers of an engine with those of goldens of special values.
class SpecialJudge {
 public:
  /// @param timeout  seconds after which a call is stopped; 0: none
  SpecialJudge(const Model& model, double timeout) : model_(model), timeout_(timeout) {
    for (const Golden& golden : model.bundle().manifest().goldens)
      for (const GoldenCall& call : model.bundle().golden(golden))
        for (const auto& [name, output] : call.outputs)
          if (is_floating(output.dtype()))
            largest_[name] = std::max(largest_[name], largest_of(output));
  }

  /// Returns how the engine differs from a golden; empty when it does not.
  [[nodiscard]] std::string difference(const Golden& golden) const {
    try {
      Session session = model_.session();
      for (const GoldenCall& call : model_.bundle().golden(golden)) {
        const Inputs inputs = model_.transfer_inputs(call.inputs, call.method);
        const Outputs outputs = session.call(call.method, inputs, {.timeout = timeout_});
        for (const auto& [name, expected] : call.outputs)
          if (const Tensor* output = outputs.find(name)) {
            const std::string reason = judge(call, name, expected, *output);
            if (!reason.empty()) return "output \"" + name + "\": " + reason;
          }
      }
      return "";
    } catch (const std::exception& error) {
      return error.what();
    }
  }

 private:
  [[nodiscard]] std::string judge(const GoldenCall& call, const std::string& name,
                                  const Tensor& expected, const Tensor& output) const {
    const Tensor actual = output.defined() ? model_.transfer(output, Device{}) : output;
    const Tolerance tolerance = tolerance_for(name, expected);
    // As in the sweep of sizes, an output differs only where it is beyond both eager's own error in
    // this call, which is tiny where functions saturate, and the worst of all goldens.
    std::string reason;
    if (const Tensor* error = call.errors.find(name)) {
      const OutputParity parity = compare(name, expected, actual, tolerance, nullptr, *error);
      if (parity.passed) return "";
      reason = parity.reason;
    }
    const OutputParity parity = compare(name, expected, actual, tolerance);
    if (parity.passed) return "";
    return reason.empty() ? parity.reason : reason;
  }

  /// Returns the tolerance of an output, in proportion where its values are larger than usual. The
  /// multiples of eager's own error need no change, for the golden has its own errors.
  [[nodiscard]] Tolerance tolerance_for(const std::string& name, const Tensor& expected) const {
    const auto& tolerances = model_.artifact().tolerances;
    const auto known = tolerances.find(name);
    Tolerance tolerance = known == tolerances.end() ? Tolerance{} : known->second;
    const auto usual = largest_.find(name);
    if (!is_floating(expected.dtype()) || usual == largest_.end() || usual->second <= 0)
      return tolerance;
    const double largest = largest_of(expected);
    const double ratio = largest / usual->second;
    if (ratio <= 1) return tolerance;
    for (std::size_t at = 0; at < kStatistics; ++at)
      if (at != static_cast<std::size_t>(Statistic::kCosine))
        tolerance.limits.allowance.values[at] *= ratio;
    tolerance.atol *= ratio;
    return tolerance;
  }

  const Model& model_;
  double timeout_;
  std::map<std::string, double> largest_;  ///< of each output in the ordinary goldens
};

/// Returns the least and largest value of an input in the ordinary goldens. Of floating-point
/// numbers it is the largest magnitude, with both signs.
ValueRange own_range(const Model& model, const std::string& input) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  bool floats = false;
  for (const Golden& golden : model.bundle().manifest().goldens)
    for (const GoldenCall& call : model.bundle().golden(golden)) {
      const Tensor* value = call.inputs.find(input);
      if (value == nullptr || !value->defined()) continue;
      floats = is_floating(value->dtype());
      each_finite(*value, [&](double number) {
        low = std::min(low, number);
        high = std::max(high, number);
      });
    }
  if (low > high) return {0, 0};
  if (floats) {
    high = std::max(-low, high);
    low = -high;
  }
  constexpr double kMost = 0x1p62;
  return {static_cast<std::int64_t>(std::floor(std::max(low, -kMost))),
          static_cast<std::int64_t>(std::ceil(std::min(high, kMost)))};
}

void add_kind(EngineProof& proof, const std::string& input, const std::string& kind) {
  auto& kinds = proof.unproven[input];
  if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
}

void narrow(EngineProof& proof, const std::string& input, const ValueRange& range) {
  const auto [known, fresh] = proof.values.emplace(input, range);
  if (fresh) return;
  known->second.min = std::max(known->second.min, range.min);
  known->second.max = std::min(known->second.max, range.max);
}

}  // namespace

void try_specials(const Model& model, const std::function<std::optional<std::size_t>()>& next,
                  const std::function<void(const Golden&, const std::string&)>& done) {
  const auto& specials = model.bundle().manifest().specials;
  const SpecialJudge judge(model, 0);
  while (const auto at = next()) {
    if (*at >= specials.size())
      throw InvalidInput("golden of special values " + std::to_string(*at) + ": the bundle has " +
                         std::to_string(specials.size()) + ", counted from 0");
    done(specials[*at], judge.difference(specials[*at]));
  }
}

void detail::add_limits(const Model& model, EngineProof& proof) {
  for (const EngineProof& other : model.artifact().proofs) {
    if (other.engine != proof.engine || other.device != proof.device) continue;
    for (const auto& [input, range] : other.values) narrow(proof, input, range);
    for (const auto& [input, kinds] : other.unproven)
      for (const std::string& kind : kinds) add_kind(proof, input, kind);
  }
  const auto& specials = model.bundle().manifest().specials;
  // What is known to differ is not run: the engine may hang. One input that is known explains a
  // difference on several.
  const auto known = [&](const auto& special) {
    const auto& [input, kind] = special;
    if (kind == "magnitude") return proof.values.contains(input);
    const auto kinds = proof.unproven.find(input);
    return kinds != proof.unproven.end() &&
           std::find(kinds->second.begin(), kinds->second.end(), kind) != kinds->second.end();
  };
  std::optional<SpecialJudge> judge;
  for (const Golden& golden : specials) {
    if (!model.artifact().serves(golden) ||
        std::any_of(golden.special.begin(), golden.special.end(), known))
      continue;
    if (!judge) judge.emplace(model, model.can_stop() ? kTimeout : 0);
    if (judge->difference(golden).empty()) continue;
    for (const auto& [input, kind] : golden.special) {
      if (kind != "magnitude")
        add_kind(proof, input, kind);
      else if (!proof.values.contains(input))
        narrow(proof, input, own_range(model, input));
    }
  }
}

EngineProof prove_specials(const Model& model) {
  EngineProof proof{.engine = model.load_report().engine,
                    .device = std::string(name(model.device().type)),
                    .runtime = model.load_report().runtime,
                    .passed = true};
  detail::add_limits(model, proof);
  return proof;
}

}  // namespace isthmus
