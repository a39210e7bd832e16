#include "core/bundle/signature_check.h"

#include <algorithm>

#include "core/bundle/input_names.h"
#include "core/bundle/methods.h"
#include "core/bundle/refusals.h"
#include "core/bundle/served_cases.h"
#include "core/bundle/value_check.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

using Entry = DimensionSizes::Entry;

/// Collects the sizes of an expression's names. Returns how many of them are unknown.
/// @param last  the index of the last one that is unknown
std::size_t collect(const std::vector<std::size_t>& names, const DimensionSizes& sizes,
                    SizeExpression::Sizes& values, std::size_t& last) {
  std::size_t unknown = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Entry& entry = sizes[names[i]];
    if (entry.known()) {
      values[i] = entry.size;
      continue;
    }
    last = i;
    ++unknown;
  }
  return unknown;
}

/// Returns the sizes of an expression's names, or nullopt when an input that has one is absent.
std::optional<SizeExpression::Sizes> known_sizes(const std::vector<std::size_t>& names,
                                                 const DimensionSizes& sizes) {
  SizeExpression::Sizes values{};
  std::size_t last = 0;
  if (collect(names, sizes, values, last) > 0) return std::nullopt;
  return values;
}

}  // namespace

// --- what follows from the signature alone ------------------------------------------------------

SignatureCheck::SignatureCheck(const Signature& signature) : signature_(&signature) {
  for (const ValueSpec& spec : signature.inputs) inputs_.push_back(value(spec));
  for (const ValueSpec& spec : signature.outputs) outputs_.push_back(value(spec));
}

std::size_t SignatureCheck::index_of(const std::string& name) {
  const auto known = std::find_if(names_.begin(), names_.end(),
                                  [&](const Name& other) { return *other.text == name; });
  if (known != names_.end()) return static_cast<std::size_t>(known - names_.begin());
  const auto range = signature_->dims.find(name);
  names_.push_back({&name, range == signature_->dims.end() ? nullptr : &range->second});
  return names_.size() - 1;
}

SignatureCheck::Computed SignatureCheck::computed(const SizeExpression& expression) {
  Computed result{&expression, {}};
  for (const std::string& name : expression.names()) result.names.push_back(index_of(name));
  return result;
}

SignatureCheck::Value SignatureCheck::value(const ValueSpec& spec) {
  Value result;
  if (spec.shape)
    for (const Dim& dim : *spec.shape) {
      if (dim.name.empty()) {
        result.axes.push_back({dim.size < 0 ? Axis::Kind::kAny : Axis::Kind::kFixed, dim.size, 0});
      } else if (dim.expression) {
        result.axes.push_back({Axis::Kind::kComputed, -1, result.computed.size()});
        result.computed.push_back(computed(*dim.expression));
      } else {
        result.axes.push_back({Axis::Kind::kNamed, -1, index_of(dim.name)});
      }
    }
  if (spec.values && spec.values->min_expression)
    result.min = computed(*spec.values->min_expression);
  if (spec.values && spec.values->max_expression)
    result.max = computed(*spec.values->max_expression);
  result.computes = !result.computed.empty() || result.min || result.max;
  return result;
}

// --- inputs -------------------------------------------------------------------------------------

std::vector<Tensor> SignatureCheck::in_order(const Inputs& inputs) const {
  const std::vector<ValueSpec>& specs = signature_->inputs;
  std::vector<Tensor> ordered(specs.size());
  std::size_t matched = 0;
  for (std::size_t i = 0; i < ordered.size(); ++i)
    if (const Tensor* tensor = inputs.find(specs[i].name)) {
      ordered[i] = *tensor;
      ++matched;
    }
  // The numbers differ when a name is unknown or given twice.
  if (matched != inputs.size()) check_names(*signature_, inputs);
  return ordered;
}

void SignatureCheck::check_shape(std::size_t input, const Tensor& tensor, Device device,
                                 DimensionSizes& sizes) const {
  const ValueSpec& spec = signature_->inputs[input];
  const std::span<const Axis> axes = inputs_[input].axes;
  const std::span<const std::int64_t> shape = tensor.shape();
  if (shape.size() != axes.size()) refuse_rank(spec, tensor, device);
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    const std::int64_t size = shape[axis];
    if (axes[axis].kind == Axis::Kind::kFixed) {
      if (axes[axis].size != size) refuse_fixed_size(spec, tensor, device, axis);
      continue;
    }
    if (axes[axis].kind != Axis::Kind::kNamed) continue;
    Entry& known = sizes[axes[axis].index];
    if (known.known()) {
      if (known.size != size) refuse_unequal_size(spec, tensor, axis, known.size, *known.input);
      continue;
    }
    const DimRange* range = names_[axes[axis].index].range;
    if (range != nullptr && !range->allows(size)) refuse_range(spec, tensor, device, axis, *range);
    known = {size, &spec.name, false};
  }
}

/// Checks one tensor, and replaces it with a contiguous copy when that is needed.
void SignatureCheck::check_input(std::size_t input, Tensor& tensor, Device device,
                                 DimensionSizes& sizes) const {
  const ValueSpec& spec = signature_->inputs[input];
  if (!tensor.defined()) {
    if (spec.optional) return;
    refuse_missing(spec, device);
  }
  if (tensor.dtype() != spec.dtype) refuse_dtype(spec, tensor, device);
  if (spec.kind != ValueKind::kTensor) {
    if (tensor.rank() != 0)
      refuse_input(spec, tensor, device, "pass one number as a 0-dimensional tensor");
    if (!tensor.device().is_cpu())
      refuse_input(spec, tensor, Device{}, "scalars are read on the CPU: move it there");
    if (spec.limit) check_limit(spec, tensor);
    return;
  }
  if (spec.shape) check_shape(input, tensor, device, sizes);
  if (tensor.device() != device) refuse_device(spec, tensor, device);
  if (tensor.data() == nullptr && tensor.numel() != 0)
    refuse_input(spec, tensor, device, "its data pointer is null");
  if (!tensor.is_contiguous()) {
    if (!device.is_cpu())
      refuse_input(spec, tensor, device, "it is not contiguous: call contiguous() on it first");
    tensor = tensor.contiguous();
  }
  if (!device.is_cpu()) return;
  if (spec.limit) check_limit(spec, tensor);
  if (spec.values && !spec.values->min_expression && !spec.values->max_expression)
    check_values(spec, tensor, spec.values->min, spec.values->max);
}

void SignatureCheck::check_inputs(std::span<Tensor> inputs, Device device,
                                  DimensionSizes& sizes) const {
  const Signature& signature = *signature_;
  if (inputs.size() != signature.inputs.size()) refuse_count(signature, inputs.size());
  bool computes = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_input(i, inputs[i], device, sizes);
    computes = computes || (inputs_[i].computes && inputs[i].defined());
  }
  if (computes) check_expressions(inputs, device, sizes);
  if (signature.served.empty()) return;
  check_served(signature, inputs, [&](const std::string& name) -> std::optional<std::int64_t> {
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (*names_[i].text == name && sizes[i].known()) return sizes[i].size;
    return std::nullopt;
  });
}

// --- sizes and bounds that are computed from others ---------------------------------------------

/// Calls a function with each input that is there and has computed sizes, the axis, and the
/// expression.
void SignatureCheck::for_each_computed(std::span<const Tensor> inputs, auto&& function) const {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs_[i].computed.empty() || !inputs[i].defined()) continue;
    const std::vector<Axis>& axes = inputs_[i].axes;
    for (std::size_t axis = 0; axis < axes.size(); ++axis)
      if (axes[axis].kind == Axis::Kind::kComputed)
        function(i, axis, inputs_[i].computed[axes[axis].index]);
  }
}

/// Finds the sizes of names that no axis has alone, from expressions with one unknown name.
/// @throws InvalidInput where no allowed size gives the size of the axis.
void SignatureCheck::solve_names(std::span<const Tensor> inputs, DimensionSizes& sizes) const {
  bool found = true;
  while (found) {
    found = false;
    for_each_computed(inputs, [&](std::size_t input, std::size_t axis, const Computed& computed) {
      const SizeExpression& expression = *computed.expression;
      SizeExpression::Sizes values{};
      std::size_t unknown = 0;
      if (collect(computed.names, sizes, values, unknown) != 1 || !expression.solvable_for(unknown))
        return;
      const ValueSpec& spec = signature_->inputs[input];
      const Tensor& tensor = inputs[input];
      const Name& name = names_[computed.names[unknown]];
      const auto size = expression.solve(unknown, tensor.shape()[axis], values);
      if (!size || *size < 0 || (name.range != nullptr && !name.range->allows(*size)))
        throw InvalidInput(
            input_label(spec) + "axis " + std::to_string(axis) + " is " +
            std::to_string(tensor.shape()[axis]) + ", expected \"" + expression.text() +
            "\" with \"" + *name.text + "\" " +
            (name.range == nullptr ? "a whole number" : name.range->text()) + "; got " +
            tensor.describe() +
            (name.range == nullptr || name.range->advice.empty() ? "" : "; " + name.range->advice));
      sizes[computed.names[unknown]] = {*size, &spec.name, true};
      found = true;
    });
  }
}

/// Checks the values of an input whose bounds are computed. Bounds with an unknown name are not
/// checked.
void SignatureCheck::check_computed_range(std::size_t input, const Tensor& tensor,
                                          const DimensionSizes& sizes) const {
  const ValueSpec& spec = signature_->inputs[input];
  const auto compute = [&](const std::optional<Computed>& bound, std::int64_t given) {
    if (!bound) return std::optional(given);
    const auto values = known_sizes(bound->names, sizes);
    return values ? bound->expression->evaluate(*values) : std::nullopt;
  };
  const auto explain = [&](const std::optional<Computed>& bound) {
    if (!bound) return std::string();
    return " (" + bound->expression->text() + " = " +
           bound->expression->explain(*known_sizes(bound->names, sizes)) + ")";
  };
  const Value& value = inputs_[input];
  const auto min = compute(value.min, spec.values->min);
  const auto max = compute(value.max, spec.values->max);
  if (min && max)
    check_values(spec, tensor, *min, *max, [&] { return explain(value.min) + explain(value.max); });
}

/// Checks the sizes and bounds that follow from the named dimensions, when all of these are known.
void SignatureCheck::check_expressions(std::span<const Tensor> inputs, Device device,
                                       DimensionSizes& sizes) const {
  solve_names(inputs, sizes);
  for_each_computed(inputs, [&](std::size_t input, std::size_t axis, const Computed& computed) {
    const SizeExpression& expression = *computed.expression;
    const Tensor& tensor = inputs[input];
    const auto values = known_sizes(computed.names, sizes);
    if (!values || expression.evaluate(*values) == tensor.shape()[axis]) return;
    throw InvalidInput(input_label(signature_->inputs[input]) + "dimension \"" + expression.text() +
                       "\" (axis " + std::to_string(axis) + ") is " +
                       std::to_string(tensor.shape()[axis]) + ", expected " +
                       expression.explain(*values) + "; got " + tensor.describe());
  });
  if (!device.is_cpu()) return;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined() && (inputs_[i].min || inputs_[i].max))
      check_computed_range(i, inputs[i], sizes);
}

void SignatureCheck::read_sizes(std::span<const Tensor> inputs, DimensionSizes& sizes) const {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) continue;
    const std::vector<Axis>& axes = inputs_[i].axes;
    for (std::size_t axis = 0; axis < axes.size(); ++axis)
      if (axes[axis].kind == Axis::Kind::kNamed && !sizes[axes[axis].index].known())
        sizes[axes[axis].index] = {inputs[i].shape()[axis], &signature_->inputs[i].name, false};
  }
  solve_names(inputs, sizes);
}

// --- outputs ------------------------------------------------------------------------------------

void SignatureCheck::check_outputs(std::span<const Tensor> outputs,
                                   const DimensionSizes& sizes) const {
  const Signature& signature = *signature_;
  check_count(signature, outputs.size(), 0);
  bool has_computed = false;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const ValueSpec& spec = signature.outputs[i];
    const Tensor& tensor = outputs[i];
    if (!tensor.defined()) {
      if (!spec.optional) refuse_output(signature, spec, tensor, "it is missing");
      continue;
    }
    if (tensor.dtype() != spec.dtype) refuse_output(signature, spec, tensor, "another dtype");
    if (!spec.shape) continue;
    const std::span<const Axis> axes = outputs_[i].axes;
    const std::span<const std::int64_t> shape = tensor.shape();
    if (shape.size() != axes.size()) refuse_output(signature, spec, tensor, "another rank");
    for (std::size_t axis = 0; axis < axes.size(); ++axis) {
      if (axes[axis].kind == Axis::Kind::kFixed) {
        if (axes[axis].size != shape[axis]) refuse_output(signature, spec, tensor, "another size");
        continue;
      }
      if (axes[axis].kind == Axis::Kind::kAny) continue;
      const Entry* given =
          axes[axis].kind == Axis::Kind::kNamed ? &sizes[axes[axis].index] : nullptr;
      if (given == nullptr || !given->known() || given->solved)
        has_computed = true;
      else if (given->size != shape[axis])
        refuse_other_size(signature, spec, tensor, axis);
    }
  }
  if (has_computed) check_computed_sizes(outputs, sizes);
}

/// Checks the sizes of outputs that no input has alone: expressions, and names that are solved from
/// the inputs' expressions. Sizes of unknown names are not checked.
void SignatureCheck::check_computed_sizes(std::span<const Tensor> outputs,
                                          const DimensionSizes& sizes) const {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    const auto check = [&](std::size_t axis, std::optional<std::int64_t> expected,
                           const auto& text) {
      if (expected != outputs[i].shape()[axis])
        refuse_output(*signature_, signature_->outputs[i], outputs[i],
                      "axis " + std::to_string(axis) + " should be " + text());
    };
    const Value& value = outputs_[i];
    for (std::size_t axis = 0; axis < value.axes.size(); ++axis) {
      const std::size_t index = value.axes[axis].index;
      if (value.axes[axis].kind == Axis::Kind::kComputed) {
        const Computed& computed = value.computed[index];
        if (const auto values = known_sizes(computed.names, sizes))
          check(axis, computed.expression->evaluate(*values),
                [&] { return computed.expression->explain(*values); });
      } else if (value.axes[axis].kind == Axis::Kind::kNamed && sizes[index].known()) {
        check(axis, sizes[index].size, [&] { return std::to_string(sizes[index].size); });
      }
    }
  }
}

}  // namespace isthmus::detail
