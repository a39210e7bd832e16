#include "isthmus/signature.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "core/bundle/methods.h"
#include "core/bundle/served_cases.h"
#include "core/bundle/size_expression.h"
#include "core/bundle/special_values.h"
#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

std::string dim_text(const Dim& dim) {
  if (!dim.name.empty()) return dim.name;
  return dim.size < 0 ? "?" : std::to_string(dim.size);
}

std::string spec_text(const ValueSpec& spec) {
  std::string text(name(spec.dtype));
  if (spec.kind != ValueKind::kTensor) return text + "[] (a scalar)";
  if (!spec.shape) return text + "[...]";
  return text + "[" + detail::joined(*spec.shape, dim_text) + "]";
}

std::string input_label(const ValueSpec& spec) {
  return "input \"" + spec.name + "\": ";
}

/// The sizes that named dimensions have in one call. Calls have few of them, so a linear search is
/// the fastest, and the first ones are stored without an allocation.
class DimensionSizes {
 public:
  struct Entry {
    const std::string* name;
    const std::string* input;  ///< name of the first input that has the dimension
    std::int64_t size;
  };

  const Entry* find(const std::string& name) const {
    for (std::size_t i = 0; i < count_; ++i)
      if (*first_[i].name == name) return &first_[i];
    for (const Entry& entry : others_)
      if (*entry.name == name) return &entry;
    return nullptr;
  }
  /// Tells that a size or a bound of a value has to be computed when all names are known.
  void expect_expressions() noexcept { has_expressions_ = true; }
  bool has_expressions() const noexcept { return has_expressions_; }

  void add(const Entry& entry) {
    if (count_ < first_.size())
      first_[count_++] = entry;
    else
      others_.push_back(entry);
  }

 private:
  std::array<Entry, 16> first_;
  std::size_t count_ = 0;
  bool has_expressions_ = false;
  std::vector<Entry> others_;
};

[[noreturn]] void mismatch(const ValueSpec& spec, const Tensor& tensor, Device device,
                           const std::string& advice) {
  throw InvalidInput(input_label(spec) + "expected " + spec_text(spec) + " on " +
                     to_string(device) + ", got " + tensor.describe() + "; " + advice);
}

void check_shape(const Signature& signature, const ValueSpec& spec, const Tensor& tensor,
                 Device device, DimensionSizes& sizes) {
  if (!spec.shape) return;
  const auto& expected = *spec.shape;
  const Shape& shape = tensor.shape();
  if (shape.size() != expected.size())
    mismatch(spec, tensor, device,
             "it has " + std::to_string(shape.size()) + " dimensions instead of " +
                 std::to_string(expected.size()));
  for (std::size_t axis = 0; axis < expected.size(); ++axis) {
    const Dim& dim = expected[axis];
    const std::int64_t size = shape[axis];
    if (dim.name.empty()) {
      if (dim.size >= 0 && dim.size != size)
        mismatch(spec, tensor, device,
                 "dimension " + std::to_string(axis) + " is fixed at " + std::to_string(dim.size) +
                     ": reshape the input, or export with this dimension dynamic");
      continue;
    }
    if (dim.expression) {
      sizes.expect_expressions();
      continue;
    }
    if (const auto* known = sizes.find(dim.name)) {
      if (known->size != size)
        throw InvalidInput(input_label(spec) + "dimension \"" + dim.name + "\" (axis " +
                           std::to_string(axis) + ") is " + std::to_string(size) + ", but it is " +
                           std::to_string(known->size) + " in input \"" + *known->input +
                           "\"; expected equal sizes, got " + tensor.describe());
      continue;
    }
    const auto range = signature.dims.find(dim.name);
    if (range != signature.dims.end() && !range->second.allows(size))
      mismatch(spec, tensor, device,
               "dimension \"" + dim.name + "\" (axis " + std::to_string(axis) + ") is " +
                   std::to_string(size) + ", outside its range " + range->second.text() + ": " +
                   (range->second.advice.empty() ? "stay inside it, or export with a wider range"
                                                 : range->second.advice));
    sizes.add({&dim.name, &spec.name, size});
  }
}

/// The inclusive bounds of values in one call.
struct Bounds {
  std::int64_t min;
  std::int64_t max;
  std::string_view origin;  ///< " (nodes = 7)": the sizes from which they were computed, if any
  const EngineLimit* limit = nullptr;  ///< the limits of an engine that these are, if any
};

/// Returns true when no value is outside the range. There is no early exit, so that the loop is
/// vectorised.
template <typename T>
bool all_inside(const T* data, std::int64_t count, const Bounds& range) {
  T low = std::numeric_limits<T>::max();
  T high = std::numeric_limits<T>::lowest();
  for (std::int64_t i = 0; i < count; ++i) {
    low = std::min(low, data[i]);
    high = std::max(high, data[i]);
  }
  return count == 0 ||
         (std::cmp_greater_equal(low, range.min) && std::cmp_less_equal(high, range.max));
}

/// Returns the indices of an element of a contiguous tensor, such as "[0, 3]".
std::string place_text(const Shape& shape, std::int64_t element) {
  std::string text;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    text = std::to_string(element % shape[axis]) + (text.empty() ? "" : ", " + text);
    element /= shape[axis];
  }
  return "[" + text + "]";
}

std::string at_place(const Tensor& tensor, std::int64_t element) {
  return (tensor.rank() == 0 ? "" : " at " + place_text(tensor.shape(), element) + " of ") +
         (tensor.rank() == 0 ? "" : tensor.describe());
}

std::string differs(const EngineLimit& limit, const std::string& values = "") {
  return limit.engine + " gave other answers than the model " +
         (values.empty() ? "" : "for " + values + " ") + limit.origin + "; " + limit.advice;
}

/// Checks a contiguous CPU tensor against the range of its values.
template <typename T>
void check_range(const ValueSpec& spec, const Tensor& tensor, const Bounds& bounds) {
  const T* data = tensor.data_as<T>();
  if (all_inside(data, tensor.numel(), bounds)) return;
  const T* bad = std::find_if(data, data + tensor.numel(), [&](T value) {
    return std::cmp_less(value, bounds.min) || std::cmp_greater(value, bounds.max);
  });
  std::string why = "; the model itself fails on others";
  if (bounds.limit != nullptr)
    why = "; beyond these, " + differs(*bounds.limit);
  else if (bounds.origin.empty())
    why += ", for example because a table ends there: is the value of another vocabulary?";
  throw InvalidInput(input_label(spec) + "expected values " + std::to_string(bounds.min) + " to " +
                     std::to_string(bounds.max) + std::string(bounds.origin) + ", got " +
                     std::to_string(*bad) + at_place(tensor, bad - data) + why);
}

void check_values(const ValueSpec& spec, const Tensor& tensor, const Bounds& bounds) {
  switch (spec.dtype) {
    case DType::kInt64:
      return check_range<std::int64_t>(spec, tensor, bounds);
    case DType::kInt32:
      return check_range<std::int32_t>(spec, tensor, bounds);
    case DType::kInt16:
      return check_range<std::int16_t>(spec, tensor, bounds);
    case DType::kInt8:
      return check_range<std::int8_t>(spec, tensor, bounds);
    case DType::kUInt8:
      return check_range<std::uint8_t>(spec, tensor, bounds);
    case DType::kUInt16:
      return check_range<std::uint16_t>(spec, tensor, bounds);
    case DType::kUInt32:
      return check_range<std::uint32_t>(spec, tensor, bounds);
    case DType::kUInt64:
      return check_range<std::uint64_t>(spec, tensor, bounds);
    default:
      return;  // the manifest gives a range to integers only
  }
}

/// Checks a contiguous CPU tensor against the limits of the engine.
void check_limit(const ValueSpec& spec, const Tensor& tensor) {
  const EngineLimit& limit = *spec.limit;
  if (!is_floating(spec.dtype)) {
    if (limit.values)
      check_values(spec, tensor, {limit.values->min, limit.values->max, {}, &limit});
    return;
  }
  const auto found = detail::find_special(tensor, limit);
  if (!found) return;
  throw InvalidInput(input_label(spec) + found->value + at_place(tensor, found->element) + "; " +
                     differs(limit, found->kind));
}

/// Checks one tensor, and replaces it with a contiguous copy when that is needed.
void check_value(const Signature& signature, const ValueSpec& spec, Tensor& tensor, Device device,
                 DimensionSizes& sizes) {
  if (!tensor.defined()) {
    if (spec.optional) return;
    throw InvalidInput(input_label(spec) + "is missing; expected " + spec_text(spec) + " on " +
                       to_string(device));
  }
  if (tensor.dtype() != spec.dtype)
    mismatch(spec, tensor, device,
             "convert it to " + std::string(name(spec.dtype)) + " before the call");
  if (spec.kind != ValueKind::kTensor) {
    if (tensor.rank() != 0)
      mismatch(spec, tensor, device, "pass one number as a 0-dimensional tensor");
    if (!tensor.device().is_cpu())
      mismatch(spec, tensor, Device{}, "scalars are read on the CPU: move it there");
    if (spec.limit) check_limit(spec, tensor);
    return;
  }
  check_shape(signature, spec, tensor, device, sizes);
  if (tensor.device() != device)
    mismatch(
        spec, tensor, device,
        "move it to " + to_string(device) + ", or load the model on " + to_string(tensor.device()));
  if (tensor.data() == nullptr && tensor.numel() != 0)
    mismatch(spec, tensor, device, "its data pointer is null");
  if (!tensor.is_contiguous()) {
    if (!device.is_cpu())
      mismatch(spec, tensor, device, "it is not contiguous: call contiguous() on it first");
    tensor = tensor.contiguous();
  }
  if (!device.is_cpu()) return;
  if (spec.limit) check_limit(spec, tensor);
  if (!spec.values) return;
  if (spec.values->min_expression || spec.values->max_expression)
    sizes.expect_expressions();
  else
    check_values(spec, tensor, {spec.values->min, spec.values->max, {}});
}

// --- sizes and bounds that are computed from others ---------------------------------------------

/// Calls a function with each input that is there and has derived sizes, and each such axis.
void for_each_derived(const Signature& signature, std::span<const Tensor> inputs, auto&& function) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ValueSpec& spec = signature.inputs[i];
    if (!spec.shape || !inputs[i].defined()) continue;
    for (std::size_t axis = 0; axis < spec.shape->size(); ++axis)
      if ((*spec.shape)[axis].expression) function(spec, inputs[i], axis);
  }
}

/// Collects the sizes of an expression's names. Returns how many of them are unknown.
/// @param last  the index of the last one that is unknown
std::size_t collect(const SizeExpression& expression, const DimensionSizes& sizes,
                    SizeExpression::Sizes& values, std::size_t& last) {
  std::size_t unknown = 0;
  for (std::size_t name = 0; name < expression.names().size(); ++name) {
    const auto* known = sizes.find(expression.names()[name]);
    if (known != nullptr) {
      values[name] = known->size;
      continue;
    }
    last = name;
    ++unknown;
  }
  return unknown;
}

/// Returns the sizes of an expression's names, or nullopt when an input that has one is absent.
std::optional<SizeExpression::Sizes> known_sizes(const SizeExpression& expression,
                                                 const DimensionSizes& sizes) {
  SizeExpression::Sizes values{};
  std::size_t last = 0;
  if (collect(expression, sizes, values, last) > 0) return std::nullopt;
  return values;
}

/// Finds the sizes of names that no axis has alone, from expressions with one unknown name.
/// @throws InvalidInput where no allowed size gives the size of the axis.
void solve_names(const Signature& signature, std::span<const Tensor> inputs,
                 DimensionSizes& sizes) {
  bool found = true;
  while (found) {
    found = false;
    for_each_derived(
        signature, inputs, [&](const ValueSpec& spec, const Tensor& tensor, std::size_t axis) {
          const SizeExpression& expression = *(*spec.shape)[axis].expression;
          SizeExpression::Sizes values{};
          std::size_t unknown = 0;
          if (collect(expression, sizes, values, unknown) != 1 || !expression.solvable_for(unknown))
            return;
          const std::string& name = expression.names()[unknown];
          const auto range = signature.dims.find(name);
          const auto size = expression.solve(unknown, tensor.shape()[axis], values);
          if (!size || *size < 0 || (range != signature.dims.end() && !range->second.allows(*size)))
            throw InvalidInput(
                input_label(spec) + "axis " + std::to_string(axis) + " is " +
                std::to_string(tensor.shape()[axis]) + ", expected \"" + expression.text() +
                "\" with \"" + name + "\" " +
                (range == signature.dims.end() ? "a whole number" : range->second.text()) +
                "; got " + tensor.describe() +
                (range == signature.dims.end() || range->second.advice.empty()
                     ? ""
                     : "; " + range->second.advice));
          sizes.add({&name, &spec.name, *size});
          found = true;
        });
  }
}

/// Checks the values of an input whose bounds are computed. Bounds with an unknown name are not
/// checked.
void check_computed_range(const ValueSpec& spec, const Tensor& tensor,
                          const DimensionSizes& sizes) {
  Bounds bounds{spec.values->min, spec.values->max, {}};
  std::string origin;
  const auto compute = [&](const auto& expression, std::int64_t& bound) {
    if (!expression) return true;
    const auto values = known_sizes(*expression, sizes);
    const auto value = values ? expression->evaluate(*values) : std::nullopt;
    if (!value) return false;
    bound = *value;
    origin += " (" + expression->text() + " = " + expression->explain(*values) + ")";
    return true;
  };
  if (!compute(spec.values->min_expression, bounds.min) ||
      !compute(spec.values->max_expression, bounds.max))
    return;
  bounds.origin = origin;
  check_values(spec, tensor, bounds);
}

/// Checks the sizes and bounds that follow from the named dimensions, when all of these are known.
void check_expressions(const Signature& signature, std::span<const Tensor> inputs, Device device,
                       DimensionSizes& sizes) {
  solve_names(signature, inputs, sizes);
  for_each_derived(signature, inputs,
                   [&](const ValueSpec& spec, const Tensor& tensor, std::size_t axis) {
                     const SizeExpression& expression = *(*spec.shape)[axis].expression;
                     const auto values = known_sizes(expression, sizes);
                     if (!values || expression.evaluate(*values) == tensor.shape()[axis]) return;
                     throw InvalidInput(input_label(spec) + "dimension \"" + expression.text() +
                                        "\" (axis " + std::to_string(axis) + ") is " +
                                        std::to_string(tensor.shape()[axis]) + ", expected " +
                                        expression.explain(*values) + "; got " + tensor.describe());
                   });
  if (!device.is_cpu()) return;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& range = signature.inputs[i].values;
    if (inputs[i].defined() && range && (range->min_expression || range->max_expression))
      check_computed_range(signature.inputs[i], inputs[i], sizes);
  }
}

/// Returns the sizes of the names in checked inputs.
DimensionSizes sizes_of(const Signature& signature, std::span<const Tensor> inputs) {
  DimensionSizes sizes;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ValueSpec& spec = signature.inputs[i];
    if (!spec.shape || !inputs[i].defined()) continue;
    for (std::size_t axis = 0; axis < spec.shape->size(); ++axis) {
      const Dim& dim = (*spec.shape)[axis];
      if (!dim.name.empty() && !dim.expression && sizes.find(dim.name) == nullptr)
        sizes.add({&dim.name, &spec.name, inputs[i].shape()[axis]});
    }
  }
  solve_names(signature, inputs, sizes);
  return sizes;
}

std::string expected_names(const Signature& signature) {
  if (signature.inputs.empty()) return "no inputs";
  return detail::joined(signature.inputs, [](const ValueSpec& spec) {
    return detail::in_quotes(spec.name) + (spec.optional ? " (optional)" : "");
  });
}

/// Returns the Levenshtein distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

/// @throws InvalidInput for a name that the signature does not have, or that is given twice.
void check_names(const Signature& signature, const Inputs& inputs) {
  for (auto item = inputs.begin(); item != inputs.end(); ++item) {
    const std::string& given = item->first;
    const bool known = std::any_of(signature.inputs.begin(), signature.inputs.end(),
                                   [&](const ValueSpec& spec) { return spec.name == given; });
    if (!known) {
      const auto nearest =
          std::min_element(signature.inputs.begin(), signature.inputs.end(),
                           [&](const ValueSpec& a, const ValueSpec& b) {
                             return edit_distance(a.name, given) < edit_distance(b.name, given);
                           });
      std::string hint;
      if (nearest != signature.inputs.end() &&
          edit_distance(nearest->name, given) <= std::max<std::size_t>(2, given.size() / 3))
        hint = "; did you mean \"" + nearest->name + "\"?";
      throw InvalidInput("input \"" + given + "\" is not one of the model's inputs; expected " +
                         expected_names(signature) + hint);
    }
    for (auto earlier = inputs.begin(); earlier != item; ++earlier)
      if (earlier->first == given)
        throw InvalidInput("input \"" + given + "\" is given twice; expected each name once");
  }
}

std::string specs_text(const std::vector<ValueSpec>& specs) {
  return detail::joined(specs, [](const ValueSpec& spec) {
    return spec.name + (spec.optional ? "?: " : ": ") + spec_text(spec);
  });
}

/// Returns the size of a named dimension in the first input that has it.
std::optional<std::int64_t> given_size(const Signature& signature, std::span<const Tensor> inputs,
                                       const Dim& dim) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& shape = signature.inputs[i].shape;
    if (!shape || !inputs[i].defined()) continue;
    const auto same = std::find(shape->begin(), shape->end(), dim);
    if (same != shape->end())
      return inputs[i].shape()[static_cast<std::size_t>(same - shape->begin())];
  }
  return std::nullopt;
}

/// Checks the sizes of outputs that no input has alone: expressions, and names that are solved from
/// the inputs' expressions. Sizes of unknown names are not checked.
void check_computed_sizes(const Signature& signature, std::span<const Tensor> inputs,
                          std::span<const Tensor> outputs, const auto& fail) {
  const DimensionSizes sizes = sizes_of(signature, inputs);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const ValueSpec& spec = signature.outputs[i];
    if (!spec.shape || !outputs[i].defined()) continue;
    for (std::size_t axis = 0; axis < spec.shape->size(); ++axis) {
      const Dim& dim = (*spec.shape)[axis];
      const std::int64_t size = outputs[i].shape()[axis];
      const auto check = [&](std::optional<std::int64_t> expected, const auto& text) {
        if (expected != size)
          fail(spec, outputs[i], "axis " + std::to_string(axis) + " should be " + text());
      };
      if (dim.expression) {
        if (const auto values = known_sizes(*dim.expression, sizes))
          check(dim.expression->evaluate(*values),
                [&] { return dim.expression->explain(*values); });
      } else if (const auto* known = dim.name.empty() ? nullptr : sizes.find(dim.name)) {
        check(known->size, [&] { return std::to_string(known->size); });
      }
    }
  }
}

}  // namespace

std::string Signature::describe() const {
  const auto name_of = [&](std::size_t input) { return inputs[input].name; };
  return method + "(" + specs_text(inputs) + ") -> (" + specs_text(outputs) + ")" +
         (writes.empty() ? "" : ", writes " + detail::joined(writes, name_of)) +
         (served.empty() ? "" : ", takes only " + detail::served_text(*this));
}

std::vector<Tensor> check_inputs(const Signature& signature, const Inputs& inputs, Device device) {
  std::vector<Tensor> ordered(signature.inputs.size());
  std::size_t matched = 0;
  for (std::size_t i = 0; i < ordered.size(); ++i)
    if (const Tensor* tensor = inputs.find(signature.inputs[i].name)) {
      ordered[i] = *tensor;
      ++matched;
    }
  // The numbers differ when a name is unknown or given twice.
  if (matched != inputs.size()) check_names(signature, inputs);
  check_inputs(signature, std::span<Tensor>(ordered), device);
  return ordered;
}

void check_inputs(const Signature& signature, std::span<Tensor> inputs, Device device) {
  if (inputs.size() != signature.inputs.size())
    throw InvalidInput("method \"" + signature.method + "\" takes " +
                       std::to_string(signature.inputs.size()) + " inputs (" +
                       expected_names(signature) + "), got " + std::to_string(inputs.size()));
  DimensionSizes sizes;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    check_value(signature, signature.inputs[i], inputs[i], device, sizes);
  if (sizes.has_expressions()) check_expressions(signature, inputs, device, sizes);
  if (signature.served.empty()) return;
  const DimensionSizes all = sizes_of(signature, inputs);
  detail::check_served(signature, inputs,
                       [&all](const std::string& name) -> std::optional<std::int64_t> {
                         const auto* entry = all.find(name);
                         return entry == nullptr ? std::nullopt : std::optional(entry->size);
                       });
}

void check_outputs(const Signature& signature, std::span<const Tensor> inputs,
                   std::span<const Tensor> outputs) {
  const auto fail = [&](const ValueSpec& spec, const Tensor& tensor, const std::string& why) {
    throw ExecutionError("output \"" + spec.name + "\" of \"" + signature.method + "\": expected " +
                         spec_text(spec) + ", the engine gave " + tensor.describe() + " (" + why +
                         "); the artifact does not do what its manifest says: export it again");
  };
  detail::check_count(signature, outputs.size(), 0);
  bool has_computed = false;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const ValueSpec& spec = signature.outputs[i];
    const Tensor& tensor = outputs[i];
    if (!tensor.defined()) {
      if (!spec.optional) fail(spec, tensor, "it is missing");
      continue;
    }
    if (tensor.dtype() != spec.dtype) fail(spec, tensor, "another dtype");
    if (!spec.shape) continue;
    if (tensor.rank() != spec.shape->size()) fail(spec, tensor, "another rank");
    for (std::size_t axis = 0; axis < spec.shape->size(); ++axis) {
      const Dim& dim = (*spec.shape)[axis];
      if (dim.name.empty()) {
        if (dim.size >= 0 && dim.size != tensor.shape()[axis]) fail(spec, tensor, "another size");
        continue;
      }
      // check_inputs has seen that all inputs with this dimension agree.
      const auto size = dim.expression ? std::nullopt : given_size(signature, inputs, dim);
      if (!size)
        has_computed = true;
      else if (*size != tensor.shape()[axis])
        fail(spec, tensor, "dimension \"" + dim.name + "\" differs from the input's");
    }
  }
  if (has_computed) check_computed_sizes(signature, inputs, outputs, fail);
}

}  // namespace isthmus
