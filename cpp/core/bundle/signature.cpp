#include "isthmus/signature.h"

#include "core/bundle/refusals.h"
#include "core/bundle/served_cases.h"
#include "core/bundle/signature_check.h"
#include "core/text.h"

namespace isthmus {
namespace {

std::string specs_text(const std::vector<ValueSpec>& specs) {
  return detail::joined(specs, [](const ValueSpec& spec) {
    return spec.name + (spec.optional ? "?: " : ": ") + detail::spec_text(spec);
  });
}

}  // namespace

std::string Signature::describe() const {
  const auto name_of = [&](std::size_t input) { return inputs[input].name; };
  return method + "(" + specs_text(inputs) + ") -> (" + specs_text(outputs) + ")" +
         (writes.empty() ? "" : ", writes " + detail::joined(writes, name_of)) +
         (served.empty() ? "" : ", takes only " + detail::served_text(*this));
}

std::vector<Tensor> check_inputs(const Signature& signature, const Inputs& inputs, Device device) {
  const detail::SignatureCheck check(signature);
  std::vector<Tensor> ordered = check.in_order(inputs);
  detail::DimensionSizes sizes = check.no_sizes();
  check.check_inputs(ordered, device, sizes);
  return ordered;
}

void check_inputs(const Signature& signature, std::span<Tensor> inputs, Device device) {
  const detail::SignatureCheck check(signature);
  detail::DimensionSizes sizes = check.no_sizes();
  check.check_inputs(inputs, device, sizes);
}

void check_outputs(const Signature& signature, std::span<const Tensor> inputs,
                   std::span<const Tensor> outputs) {
  const detail::SignatureCheck check(signature);
  detail::DimensionSizes sizes = check.no_sizes();
  check.read_sizes(inputs, sizes);
  check.check_outputs(outputs, sizes);
}

}  // namespace isthmus
