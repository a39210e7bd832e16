#include "core/bundle/refusals.h"

#include "core/bundle/input_names.h"
#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

std::string dim_text(const Dim& dim) {
  if (!dim.name.empty()) return dim.name;
  return dim.size < 0 ? "?" : std::to_string(dim.size);
}

/// Returns a text such as `dimension "batch" (axis 0) is 9`.
std::string named_size_text(const ValueSpec& spec, const Tensor& tensor, std::size_t axis) {
  return "dimension " + in_quotes((*spec.shape)[axis].name) + " (axis " + std::to_string(axis) +
         ") is " + std::to_string(tensor.shape()[axis]);
}

}  // namespace

std::string spec_text(const ValueSpec& spec) {
  std::string text(name(spec.dtype));
  if (spec.kind != ValueKind::kTensor) return text + "[] (a scalar)";
  if (!spec.shape) return text + "[...]";
  return text + "[" + joined(*spec.shape, dim_text) + "]";
}

std::string input_label(const ValueSpec& spec) {
  return "input " + in_quotes(spec.name) + ": ";
}

void refuse_count(const Signature& signature, std::size_t given) {
  throw InvalidInput("method " + in_quotes(signature.method) + " takes " +
                     std::to_string(signature.inputs.size()) + " inputs (" +
                     expected_names(signature) + "), got " + std::to_string(given));
}

void refuse_missing(const ValueSpec& spec, Device device) {
  throw InvalidInput(input_label(spec) + "is missing; expected " + spec_text(spec) + " on " +
                     to_string(device));
}

void refuse_input(const ValueSpec& spec, const Tensor& tensor, Device device,
                  std::string_view advice) {
  throw InvalidInput(input_label(spec) + "expected " + spec_text(spec) + " on " +
                     to_string(device) + ", got " + tensor.describe() + "; " + std::string(advice));
}

void refuse_dtype(const ValueSpec& spec, const Tensor& tensor, Device device) {
  refuse_input(spec, tensor, device,
               "convert it to " + std::string(name(spec.dtype)) + " before the call");
}

void refuse_device(const ValueSpec& spec, const Tensor& tensor, Device device) {
  refuse_input(
      spec, tensor, device,
      "move it to " + to_string(device) + ", or load the model on " + to_string(tensor.device()));
}

void refuse_rank(const ValueSpec& spec, const Tensor& tensor, Device device) {
  refuse_input(spec, tensor, device,
               "it has " + std::to_string(tensor.rank()) + " dimensions instead of " +
                   std::to_string(spec.shape->size()));
}

void refuse_fixed_size(const ValueSpec& spec, const Tensor& tensor, Device device,
                       std::size_t axis) {
  refuse_input(spec, tensor, device,
               "dimension " + std::to_string(axis) + " is fixed at " +
                   std::to_string((*spec.shape)[axis].size) +
                   ": reshape the input, or export with this dimension dynamic");
}

void refuse_range(const ValueSpec& spec, const Tensor& tensor, Device device, std::size_t axis,
                  const DimRange& range) {
  refuse_input(
      spec, tensor, device,
      named_size_text(spec, tensor, axis) + ", outside its range " + range.text() + ": " +
          (range.advice.empty() ? "stay inside it, or export with a wider range" : range.advice));
}

void refuse_unequal_size(const ValueSpec& spec, const Tensor& tensor, std::size_t axis,
                         std::int64_t expected, const std::string& other) {
  throw InvalidInput(input_label(spec) + named_size_text(spec, tensor, axis) + ", but it is " +
                     std::to_string(expected) + " in input " + in_quotes(other) +
                     "; expected equal sizes, got " + tensor.describe());
}

void refuse_output(const Signature& signature, const ValueSpec& spec, const Tensor& tensor,
                   std::string_view why) {
  throw ExecutionError("output " + in_quotes(spec.name) + " of " + in_quotes(signature.method) +
                       ": expected " + spec_text(spec) + ", the engine gave " + tensor.describe() +
                       " (" + std::string(why) +
                       "); the artifact does not do what its manifest says: export it again");
}

void refuse_other_size(const Signature& signature, const ValueSpec& spec, const Tensor& tensor,
                       std::size_t axis) {
  refuse_output(signature, spec, tensor,
                "dimension " + in_quotes((*spec.shape)[axis].name) + " differs from the input's");
}

}  // namespace isthmus::detail
