#include "core/bundle/value_check.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "core/bundle/refusals.h"
#include "core/bundle/special_values.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

struct Bounds {
  std::int64_t min;
  std::int64_t max;
};

struct OutsideValue {
  std::int64_t element;
  std::string value;
};

/// Returns true when no value is outside the bounds. There is no early exit, so that the loop is
/// vectorised.
template <typename T>
bool all_inside(const T* data, std::int64_t count, const Bounds& bounds) {
  T low = std::numeric_limits<T>::max();
  T high = std::numeric_limits<T>::lowest();
  for (std::int64_t i = 0; i < count; ++i) {
    low = std::min(low, data[i]);
    high = std::max(high, data[i]);
  }
  return count == 0 ||
         (std::cmp_greater_equal(low, bounds.min) && std::cmp_less_equal(high, bounds.max));
}

template <typename T>
std::optional<OutsideValue> find_outside(const Tensor& tensor, const Bounds& bounds) {
  const T* data = tensor.data_as<T>();
  const std::int64_t count = tensor.numel();
  if (all_inside(data, count, bounds)) return std::nullopt;
  const T* bad = std::find_if(data, data + count, [&](T value) {
    return std::cmp_less(value, bounds.min) || std::cmp_greater(value, bounds.max);
  });
  return OutsideValue{bad - data, std::to_string(*bad)};
}

std::optional<OutsideValue> find_outside(const Tensor& tensor, const Bounds& bounds) {
  switch (tensor.dtype()) {
    case DType::kInt64:
      return find_outside<std::int64_t>(tensor, bounds);
    case DType::kInt32:
      return find_outside<std::int32_t>(tensor, bounds);
    case DType::kInt16:
      return find_outside<std::int16_t>(tensor, bounds);
    case DType::kInt8:
      return find_outside<std::int8_t>(tensor, bounds);
    case DType::kUInt8:
      return find_outside<std::uint8_t>(tensor, bounds);
    case DType::kUInt16:
      return find_outside<std::uint16_t>(tensor, bounds);
    case DType::kUInt32:
      return find_outside<std::uint32_t>(tensor, bounds);
    case DType::kUInt64:
      return find_outside<std::uint64_t>(tensor, bounds);
    default:
      return std::nullopt;  // the manifest gives a range to integers only
  }
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
  return tensor.rank() == 0
             ? ""
             : " at " + place_text(tensor.shape(), element) + " of " + tensor.describe();
}

std::string differs(const EngineLimit& limit, const std::string& values = "") {
  return limit.engine + " gave other answers than the model " +
         (values.empty() ? "" : "for " + values + " ") + limit.origin + "; " + limit.advice;
}

[[noreturn]] void refuse(const ValueSpec& spec, const Tensor& tensor, const Bounds& bounds,
                         const OutsideValue& outside, const std::string& origin,
                         const std::string& why) {
  throw InvalidInput(input_label(spec) + "expected values " + std::to_string(bounds.min) + " to " +
                     std::to_string(bounds.max) + origin + ", got " + outside.value +
                     at_place(tensor, outside.element) + "; " + why);
}

}  // namespace

void check_values(const ValueSpec& spec, const Tensor& tensor, std::int64_t min, std::int64_t max,
                  const std::function<std::string()>& origin) {
  const Bounds bounds{min, max};
  const auto outside = find_outside(tensor, bounds);
  if (!outside) return;
  refuse(spec, tensor, bounds, *outside, origin ? origin() : "",
         std::string("the model itself fails on others") +
             (origin ? ""
                     : ", for example because a table ends there: is the value of another "
                       "vocabulary?"));
}

void check_limit(const ValueSpec& spec, const Tensor& tensor) {
  const EngineLimit& limit = *spec.limit;
  if (is_floating(spec.dtype)) {
    if (const auto special = find_special(tensor, limit))
      throw InvalidInput(input_label(spec) + special->value + at_place(tensor, special->element) +
                         "; " + differs(limit, special->kind));
    return;
  }
  if (!limit.values) return;
  const Bounds bounds{limit.values->min, limit.values->max};
  if (const auto outside = find_outside(tensor, bounds))
    refuse(spec, tensor, bounds, *outside, "", "beyond these, " + differs(limit));
}

}  // namespace isthmus::detail
