#include "core/batching/batch_plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "core/bundle/size_expression.h"
#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

bool is_scalar(const ValueSpec& spec) {
  return spec.kind != ValueKind::kTensor;
}

std::size_t element_size(const Tensor& tensor) {
  return tensor.numel() == 0 ? 0 : tensor.nbytes() / static_cast<std::size_t>(tensor.numel());
}

// Returns the strides of a contiguous array, in elements.
Shape steps_of(const Shape& shape) {
  Shape steps(shape.size(), 1);
  for (std::size_t at = shape.size(); at-- > 1;) steps[at - 1] = steps[at] * shape[at];
  return steps;
}

// Copies the part that two contiguous arrays have in common. On each axis, elements beyond the
// shorter one are not touched.
struct BlockCopy {
  std::size_t element;
  Shape common;
  Shape from_steps;
  Shape to_steps;
  std::size_t whole;  ///< from this axis on, the common part is one piece of memory

  BlockCopy(const Shape& from, const Shape& to, std::size_t element_bytes)
      : element(element_bytes), common(from), from_steps(steps_of(from)), to_steps(steps_of(to)) {
    for (std::size_t at = 0; at < from.size(); ++at) common[at] = std::min(from[at], to[at]);
    whole = from.size();
    while (whole > 0 && from[whole - 1] == to[whole - 1]) --whole;
    // The common part of the first axis that differs is still one piece.
    if (whole > 0) --whole;
  }

  void run(const std::byte* from, std::byte* to, std::size_t axis = 0) const {
    if (common.empty()) {
      std::memcpy(to, from, element);
      return;
    }
    if (axis >= whole) {
      const auto count = static_cast<std::size_t>(common[axis] * from_steps[axis]);
      if (count > 0) std::memcpy(to, from, count * element);
      return;
    }
    for (std::int64_t i = 0; i < common[axis]; ++i)
      run(from + static_cast<std::size_t>(i * from_steps[axis]) * element,
          to + static_cast<std::size_t>(i * to_steps[axis]) * element, axis + 1);
  }
};

void fill(const Tensor& tensor, double value, const std::string& name) {
  if (value == 0) {
    if (tensor.nbytes() > 0) std::memset(tensor.data(), 0, tensor.nbytes());
    return;
  }
  const auto all = [&]<typename T>(T element) {
    std::fill_n(static_cast<T*>(tensor.data()), tensor.numel(), element);
  };
  switch (tensor.dtype()) {
    case DType::kInt64:
      return all(static_cast<std::int64_t>(value));
    case DType::kInt32:
      return all(static_cast<std::int32_t>(value));
    case DType::kFloat32:
      return all(static_cast<float>(value));
    case DType::kFloat64:
      return all(value);
    case DType::kBool:
      return all(true);
    default:
      throw InvalidInput("padding of \"" + name + "\": " + tensor.describe() +
                         " can be padded with 0 only");
  }
}

/// Returns true when an integer or boolean element can have the value; floats can have any.
bool holds(DType dtype, double value) {
  if (is_floating(dtype)) return true;
  if (dtype == DType::kBool) return value == 0 || value == 1;
  const int bits = static_cast<int>(8 * size_of(dtype));
  const bool is_unsigned = name(dtype).front() == 'u';
  const double low = is_unsigned ? 0 : -std::ldexp(1.0, bits - 1);
  const double high = std::ldexp(1.0, is_unsigned ? bits : bits - 1);
  return std::trunc(value) == value && value >= low && value < high;
}

/// Returns the upper end of a dimension's range.
std::int64_t most(const Signature& signature, const std::string& dim) {
  const auto range = signature.dims.find(dim);
  return range == signature.dims.end() ? std::numeric_limits<std::int64_t>::max()
                                       : range->second.max;
}

std::int64_t rows_of(std::span<const BatchPlan::Request* const> requests) {
  std::int64_t rows = 0;
  for (const BatchPlan::Request* request : requests) rows += request->rows;
  return rows;
}

}  // namespace

BatchPlan::BatchPlan(const Signature& signature, const std::map<std::string, double>& padding)
    : signature_(&signature), check_(signature), padding_(signature.inputs.size(), 0.0) {
  for (const auto& [name, value] : padding) {
    const auto spec_of = std::find_if(signature.inputs.begin(), signature.inputs.end(),
                                      [&](const ValueSpec& spec) { return spec.name == name; });
    if (spec_of == signature.inputs.end())
      throw InvalidInput("padding: \"" + name + "\" is no input of " + signature.describe());
    if (!holds(spec_of->dtype, value))
      throw InvalidInput("padding: \"" + name + "\" of " +
                         std::string(isthmus::name(spec_of->dtype)) + " cannot hold " +
                         std::to_string(value));
    padding_[static_cast<std::size_t>(spec_of - signature.inputs.begin())] = value;
  }
  read(signature);
}

void BatchPlan::read(const Signature& signature) {
  std::set<std::string> others;
  const auto look_at = [&](const ValueSpec& spec, bool input) {
    if (input && is_scalar(spec)) return;  // must be the same in all requests
    if (!spec.shape || spec.shape->empty() || spec.shape->front().name.empty() ||
        spec.shape->front().expression) {
      no_batching_ = detail::in_quotes(spec.name) + " does not begin with a named dimension";
      return;
    }
    if (batch_.empty()) batch_ = spec.shape->front().name;
    if (spec.shape->front().name != batch_)
      no_batching_ = detail::in_quotes(spec.name) + " does not begin with \"" + batch_ + "\"";
    for (std::size_t at = 1; at < spec.shape->size(); ++at) {
      const Dim& dim = (*spec.shape)[at];
      if (dim.name == batch_)
        no_batching_ = detail::in_quotes(spec.name) + " has \"" + batch_ + "\" twice";
      if (dim.expression) {
        for (const std::string& name : dim.expression->names()) {
          if (name == batch_)
            no_batching_ = detail::in_quotes(spec.name) + " has a size that depends on \"" +
                           batch_ + "\": \"" + dim.name + "\"";
          if (input) others.insert(name);
        }
        no_padding_ = detail::in_quotes(spec.name) +
                      " has a size that is computed from another: \"" + dim.name + "\"";
        continue;
      }
      if (input && !dim.name.empty()) others.insert(dim.name);
      if (!input && dim.name.empty() && dim.size < 0)
        no_padding_ = "output " + detail::in_quotes(spec.name) +
                      " has a size that is not known before the call";
    }
  };
  for (const ValueSpec& spec : signature.inputs) look_at(spec, true);
  if (batch_.empty() && no_batching_.empty()) no_batching_ = "no input is a tensor";
  for (const ValueSpec& spec : signature.outputs) look_at(spec, false);
  if (others.size() == 1)
    length_ = *others.begin();
  else if (no_padding_.empty())
    no_padding_ = others.empty() ? "the inputs have no other named dimension"
                                 : "the inputs have several other named dimensions";
}

std::int64_t BatchPlan::most_rows() const {
  return most(*signature_, batch_);
}

std::int64_t BatchPlan::most_length() const {
  return most(*signature_, length_);
}

BatchPlan::Request BatchPlan::prepare(const Inputs& inputs) const {
  Request request;
  request.inputs = check_.in_order(inputs);
  detail::DimensionSizes sizes = check_.no_sizes();
  check_.check_inputs(request.inputs, Device{}, sizes);
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const Tensor& input = request.inputs[i];
    const ValueSpec& spec = signature_->inputs[i];
    if (!input.defined()) {
      request.kind += "-;";
      continue;
    }
    if (is_scalar(spec) || !spec.shape) {
      request.kind.append(static_cast<const char*>(input.data()), input.nbytes()).append(";");
      continue;
    }
    for (std::size_t at = 0; at < input.rank(); ++at) {
      const Dim& dim = (*spec.shape)[at];
      if (at == 0 && dim.name == batch_)
        request.rows = input.shape()[at];
      else if (!length_.empty() && dim.name == length_)
        request.length = input.shape()[at];
      else
        request.kind += std::to_string(input.shape()[at]) + ",";
    }
    request.kind += ";";
  }
  // Without padding, only requests of equal length can be joined.
  if (!pads()) request.kind += std::to_string(request.length);
  return request;
}

std::vector<Tensor> BatchPlan::join(std::span<const Request* const> requests,
                                    std::int64_t length) const {
  const std::int64_t rows = rows_of(requests);
  const std::vector<Tensor>& first = requests.front()->inputs;
  if (requests.size() == 1 && requests.front()->length == length) return first;
  std::vector<Tensor> joined(first.size());
  for (std::size_t i = 0; i < first.size(); ++i) {
    const ValueSpec& spec = signature_->inputs[i];
    if (!first[i].defined() || is_scalar(spec)) {
      joined[i] = first[i];
      continue;
    }
    Shape shape = first[i].shape();
    shape[0] = rows;
    for (std::size_t at = 1; at < shape.size(); ++at)
      if (!length_.empty() && (*spec.shape)[at].name == length_) shape[at] = length;
    joined[i] = Tensor::empty(first[i].dtype(), shape);
    const bool padded = std::any_of(requests.begin(), requests.end(), [&](const Request* request) {
      return request->length != length;
    });
    if (padded) fill(joined[i], padding_[i], spec.name);
    const std::size_t element = element_size(first[i]);
    auto* to = static_cast<std::byte*>(joined[i].data());
    const std::size_t row = rows == 0 ? 0 : joined[i].nbytes() / static_cast<std::size_t>(rows);
    for (const Request* request : requests) {
      const Tensor& input = request->inputs[i];
      Shape place = shape;
      place[0] = request->rows;
      BlockCopy(input.shape(), place, element).run(static_cast<const std::byte*>(input.data()), to);
      to += row * static_cast<std::size_t>(request->rows);
    }
  }
  return joined;
}

std::vector<Outputs> BatchPlan::split(std::span<const Tensor> outputs,
                                      std::span<const Request* const> requests) const {
  std::vector<Outputs> answers(requests.size());
  const std::int64_t rows = rows_of(requests);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const ValueSpec& spec = signature_->outputs[i];
    const Tensor& whole = outputs[i];
    if (!whole.defined()) {
      for (Outputs& answer : answers) answer.add(spec.name, whole);
      continue;
    }
    const std::size_t element = element_size(whole);
    const auto* from = static_cast<const std::byte*>(whole.data());
    const std::size_t row = rows == 0 ? 0 : whole.nbytes() / static_cast<std::size_t>(rows);
    for (std::size_t at = 0; at < requests.size(); ++at) {
      Shape shape = whole.shape();
      shape[0] = requests[at]->rows;
      Shape place = shape;
      if (spec.shape)
        for (std::size_t axis = 1; axis < shape.size(); ++axis)
          if (!length_.empty() && (*spec.shape)[axis].name == length_)
            shape[axis] = requests[at]->length;
      Tensor own = Tensor::empty(whole.dtype(), shape);
      if (own.numel() > 0)
        BlockCopy(place, shape, element).run(from, static_cast<std::byte*>(own.data()));
      answers[at].add(spec.name, std::move(own));
      from += row * static_cast<std::size_t>(requests[at]->rows);
    }
  }
  return answers;
}

}  // namespace isthmus
