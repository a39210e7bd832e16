#include "core/golden.h"

#include <algorithm>

#include "isthmus/error.h"

namespace isthmus {

std::vector<GoldenCall> split_golden(const Manifest& manifest, const Golden& golden,
                                     const NamedTensors& tensors) {
  std::vector<GoldenCall> calls;
  std::size_t used = 0;
  const auto take = [&](NamedTensors& into, const std::vector<ValueSpec>& specs,
                        const std::string& prefix) {
    for (const ValueSpec& spec : specs) {
      const Tensor* tensor = tensors.find(prefix + spec.name);
      if (tensor != nullptr) {
        into.add(spec.name, *tensor);
        ++used;
      } else if (!spec.optional) {
        throw BundleError("golden \"" + golden.name + "\" (" + golden.file.path + ") lacks \"" +
                          prefix + spec.name + "\"; export the bundle again");
      }
    }
  };
  for (std::size_t step = 0; step < golden.steps.size(); ++step) {
    const std::string& method = golden.steps[step].method;
    const auto signature =
        std::find_if(manifest.methods.begin(), manifest.methods.end(),
                     [&](const Signature& candidate) { return candidate.method == method; });
    GoldenCall call{method, {}, {}};
    take(call.inputs, signature->inputs, std::to_string(step) + "/in/");
    take(call.outputs, signature->outputs, std::to_string(step) + "/out/");
    calls.push_back(std::move(call));
  }
  if (used != tensors.size())
    throw BundleError("golden \"" + golden.name + "\" (" + golden.file.path +
                      ") holds tensors that no step names; export the bundle again");
  return calls;
}

}  // namespace isthmus
