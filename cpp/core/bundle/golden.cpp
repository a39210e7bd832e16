#include "core/bundle/golden.h"

#include <string>

#include "core/bundle/methods.h"
#include "core/tensor/error_statistics.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

// Adds the values of one call to `into` and returns their number. Only optional values, or with
// `some` any values, may be absent. The dtype of inputs is checked; that of outputs may be of
// another precision than the signature's.
std::size_t take(const std::vector<ValueSpec>& specs, const std::string& prefix,
                 const NamedTensors& tensors, std::string_view label, bool check_dtype,
                 NamedTensors& into, bool some = false) {
  std::size_t taken = 0;
  for (const ValueSpec& spec : specs) {
    const Tensor* tensor = tensors.find(prefix + spec.name);
    if (tensor == nullptr) {
      if (spec.optional || some) continue;
      throw BundleError(std::string(label) + ": the tensor \"" + prefix + spec.name +
                        "\" is missing; export the bundle again");
    }
    if (check_dtype && tensor->dtype() != spec.dtype) {
      throw BundleError(std::string(label) + ": \"" + prefix + spec.name + "\": expected " +
                        std::string(name(spec.dtype)) + " as in the signature, got " +
                        tensor->describe() + "; export the bundle again");
    }
    into.add(spec.name, *tensor);
    ++taken;
  }
  return taken;
}

// Adds the errors of the outputs that have one, and returns their number.
std::size_t take_errors(const Outputs& outputs, const std::string& prefix,
                        const NamedTensors& tensors, std::string_view label, NamedTensors& into) {
  std::size_t taken = 0;
  for (const auto& [name, output] : outputs) {
    const Tensor* error = tensors.find(prefix + name);
    if (error == nullptr) continue;
    if (!is_error_of(*error, output)) {
      throw BundleError(std::string(label) + ": \"" + prefix + name + "\": expected " +
                        error_expectation(output) + ", got " + error->describe() +
                        "; export the bundle again");
    }
    into.add(name, *error);
    ++taken;
  }
  return taken;
}

}  // namespace

std::vector<GoldenCall> to_calls(const Manifest& manifest, const Golden& golden,
                                 const NamedTensors& tensors, std::string_view label) {
  std::vector<GoldenCall> calls;
  std::size_t taken = 0;
  for (std::size_t step = 0; step < golden.steps.size(); ++step) {
    const std::string prefix = std::to_string(step) + "/";
    const Signature& signature =
        manifest.methods[method_index(manifest, golden.steps[step].method, "the manifest")];
    GoldenCall call{.method = signature.method, .inputs = {}, .outputs = {}, .errors = {}};
    taken += take(signature.inputs, prefix + "in/", tensors, label, true, call.inputs);
    // A golden of special values leaves out outputs that it cannot judge.
    const bool some = !golden.special.empty();
    taken += take(signature.outputs, prefix + "out/", tensors, label, false, call.outputs, some);
    for (const std::size_t written : signature.writes) {
      ValueSpec spec = signature.inputs[written];
      spec.name = written_name(spec.name);
      taken += take({spec}, prefix + "out/", tensors, label, true, call.outputs, some);
    }
    taken += take_errors(call.outputs, prefix + "error/", tensors, label, call.errors);
    calls.push_back(std::move(call));
  }
  if (taken != tensors.size()) {
    throw BundleError(std::string(label) + ": it holds " + std::to_string(tensors.size()) +
                      " tensors, but the signature names " + std::to_string(taken) +
                      " of them; export the bundle again");
  }
  return calls;
}

}  // namespace isthmus::detail
