#include "engines/torch/ivalue_tree.h"

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/class_type.h>
#include <ATen/core/jit_type.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/bundle/methods.h"
#include "engines/torch/tensor_convert.h"
#include "isthmus/dtype.h"
#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

using c10::IValue;
using c10::TypeKind;
using c10::TypePtr;

constexpr const char* kRemedy = "; the manifest does not fit the artifact: export the bundle again";

/// Returns T for Optional[T], and other types unchanged.
TypePtr without_optional(const TypePtr& type) {
  if (const auto optional = type->cast<c10::OptionalType>()) return optional->getElementType();
  return type;
}

std::size_t index_of(const std::vector<ValueSpec>& specs, const std::string& name) {
  const auto spec = std::find_if(specs.begin(), specs.end(), [&](const ValueSpec& candidate) {
    return candidate.name == name;
  });
  return static_cast<std::size_t>(spec - specs.begin());
}

IValue constant(const nlohmann::json& json, const TypePtr& declared) {
  const TypePtr type = without_optional(declared);
  if (json.is_null()) return {};
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) {
    if (type->kind() == TypeKind::FloatType) return json.get<double>();
    return json.get<std::int64_t>();
  }
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_object() && json.size() == 1 && json.begin()->is_string()) {
    const std::string text = json.begin()->get<std::string>();
    if (json.contains("torch.device")) return c10::Device(text);
    // TorchScript represents a dtype by the number of its ScalarType.
    if (const auto dtype = parse_dtype(text); dtype && json.contains("torch.dtype"))
      return static_cast<std::int64_t>(to_torch(*dtype));
  }
  throw BundleError("the constant " + json.dump() + " cannot be passed to an argument of type " +
                    type->repr_str() + kRemedy);
}

class Builder {
 public:
  Builder(const Signature& signature, std::span<const Tensor> inputs)
      : signature_(signature), inputs_(inputs) {}

  IValue build(const Tree& tree, const TypePtr& declared) const {
    const TypePtr type = without_optional(declared);
    switch (tree.kind) {
      case Tree::Kind::kLeaf: {
        const std::size_t index = index_of(signature_.inputs, tree.name);
        return to_ivalue(signature_.inputs[index], inputs_[index], declared);
      }
      case Tree::Kind::kNone:
        return {};
      case Tree::Kind::kConst:
        return constant(nlohmann::json::parse(tree.text), type);
      case Tree::Kind::kList:
      case Tree::Kind::kTuple:
      case Tree::Kind::kNamedTuple:
        return sequence(tree, type);
      case Tree::Kind::kDict:
        return dictionary(tree, type);
      case Tree::Kind::kDataclass:
      case Tree::Kind::kModelOutput:
      case Tree::Kind::kPytree:
        break;
    }
    throw BundleError("\"" + signature_.method + "\": an argument of type " + type->repr_str() +
                      " cannot be made from a " + tree.type + kRemedy);
  }

 private:
  IValue sequence(const Tree& tree, const TypePtr& type) const {
    if (const auto tuple = type->cast<c10::TupleType>()) {
      const auto elements = tuple->elements();
      if (elements.size() != tree.items.size()) refuse(tree.items.size(), type);
      std::vector<IValue> values;
      for (std::size_t i = 0; i < elements.size(); ++i)
        values.push_back(build(tree.items[i], elements[i]));
      if (tuple->schema()) return c10::ivalue::Tuple::createNamed(std::move(values), tuple);
      return c10::ivalue::Tuple::create(std::move(values));
    }
    if (const auto list = type->cast<c10::ListType>()) {
      c10::impl::GenericList values(list->getElementType());
      for (const Tree& item : tree.items) values.push_back(build(item, list->getElementType()));
      return values;
    }
    refuse(tree.items.size(), type);
  }

  IValue dictionary(const Tree& tree, const TypePtr& type) const {
    const auto dict = type->cast<c10::DictType>();
    if (!dict) refuse(tree.items.size(), type);
    c10::impl::GenericDict values(dict->getKeyType(), dict->getValueType());
    for (std::size_t i = 0; i < tree.items.size(); ++i) {
      const IValue key = std::visit([](const auto& k) { return IValue(k); }, tree.keys[i]);
      values.insert(key, build(tree.items[i], dict->getValueType()));
    }
    return values;
  }

  [[noreturn]] void refuse(std::size_t items, const TypePtr& type) const {
    throw BundleError("\"" + signature_.method + "\": an argument of type " + type->repr_str() +
                      " cannot be made from " + std::to_string(items) + " nested values" + kRemedy);
  }

  const Signature& signature_;
  std::span<const Tensor> inputs_;
};

Tensor to_tensor(const ValueSpec& spec, const IValue& value) {
  if (value.isTensor()) {
    // Some operators return an undefined tensor for an absent optional result.
    if (!value.toTensor().defined()) return {};
    return from_model(value.toTensor());
  }
  if (value.isNone()) return {};
  if (value.isBool()) return Tensor::scalar<bool>(value.toBool());
  if (value.isInt()) return Tensor::scalar<std::int64_t>(value.toInt());
  if (value.isDouble()) return Tensor::scalar<double>(value.toDouble());
  throw ExecutionError("output \"" + spec.name +
                       "\": expected a tensor or a number, the model gave " + value.tagKind() +
                       kRemedy);
}

class Flattener {
 public:
  explicit Flattener(const Signature& signature)
      : signature_(signature), outputs_(signature.outputs.size()) {}

  void flatten(const Tree& tree, const IValue& value) {
    switch (tree.kind) {
      case Tree::Kind::kLeaf: {
        const std::size_t index = index_of(signature_.outputs, tree.name);
        outputs_[index] = to_tensor(signature_.outputs[index], value);
        return;
      }
      case Tree::Kind::kNone:
      case Tree::Kind::kConst:
        return;
      case Tree::Kind::kDict:
      case Tree::Kind::kDataclass:
      case Tree::Kind::kModelOutput:
      case Tree::Kind::kPytree:
        if (value.isGenericDict()) return from_dict(tree, value);
        if (value.isObject()) return from_object(tree, value);
        return from_sequence(tree, value);
      case Tree::Kind::kList:
      case Tree::Kind::kTuple:
      case Tree::Kind::kNamedTuple:
        return from_sequence(tree, value);
    }
  }

  std::vector<Tensor> take() { return std::move(outputs_); }

 private:
  void from_sequence(const Tree& tree, const IValue& value) {
    if (value.isNone()) return;  // an absent group: its leaves stay undefined
    if (value.isTuple())
      from_elements(tree, value, value.toTupleRef().elements());
    else if (value.isList())
      from_elements(tree, value, value.toListRef());
    else
      require(tree, SIZE_MAX, value);
  }

  template <typename Elements>
  void from_elements(const Tree& tree, const IValue& value, const Elements& elements) {
    require(tree, elements.size(), value);
    for (std::size_t i = 0; i < elements.size(); ++i) flatten(tree.items[i], elements[i]);
  }

  void from_dict(const Tree& tree, const IValue& value) {
    const auto dict = value.toGenericDict();
    require(tree, dict.size(), value);
    for (std::size_t i = 0; i < tree.items.size(); ++i) {
      const IValue key = std::visit([](const auto& k) { return IValue(k); }, tree.keys[i]);
      const auto entry = dict.find(key);
      if (entry == dict.end()) require(tree, SIZE_MAX, value);
      flatten(tree.items[i], entry->value());
    }
  }

  void from_object(const Tree& tree, const IValue& value) {
    const auto object = value.toObject();
    for (std::size_t i = 0; i < tree.items.size(); ++i) {
      const auto* key = std::get_if<std::string>(&tree.keys[i]);
      if (key == nullptr || !object->type()->hasAttribute(*key)) require(tree, SIZE_MAX, value);
      flatten(tree.items[i], object->getAttr(*key));
    }
  }

  void require(const Tree& tree, std::size_t got, const IValue& value) const {
    if (tree.items.size() == got) return;
    throw ExecutionError("\"" + signature_.method + "\": expected a result with " +
                         std::to_string(tree.items.size()) + " nested values, the model gave a " +
                         value.tagKind() +
                         (got == SIZE_MAX ? std::string() : " of " + std::to_string(got)) +
                         "; a structure that changes with the input cannot be carried");
  }

  const Signature& signature_;
  std::vector<Tensor> outputs_;
};

}  // namespace

IValue to_ivalue(const ValueSpec& spec, const Tensor& tensor, const TypePtr& type) {
  if (!tensor.defined()) return {};
  if (spec.kind == ValueKind::kTensor) return to_torch(tensor);
  switch (without_optional(type)->kind()) {
    case TypeKind::TensorType:
      return to_torch(tensor);
    case TypeKind::BoolType:
      if (spec.kind == ValueKind::kBoolean) return tensor.item<bool>();
      break;
    case TypeKind::IntType:
      if (spec.kind == ValueKind::kInteger) return tensor.item<std::int64_t>();
      if (spec.kind == ValueKind::kBoolean) return static_cast<std::int64_t>(tensor.item<bool>());
      break;
    case TypeKind::FloatType:
      if (spec.kind == ValueKind::kFloating) return tensor.item<double>();
      if (spec.kind == ValueKind::kInteger) return static_cast<double>(tensor.item<std::int64_t>());
      break;
    default:
      // Scalar and Any accept every kind of number.
      if (spec.kind == ValueKind::kBoolean) return tensor.item<bool>();
      if (spec.kind == ValueKind::kInteger) return tensor.item<std::int64_t>();
      return tensor.item<double>();
  }
  throw BundleError("input \"" + spec.name + "\" is a " + std::string(name(spec.dtype)) +
                    ", the artifact's argument is " + type->repr_str() + kRemedy);
}

std::vector<IValue> build_arguments(const Signature& signature, const c10::FunctionSchema& schema,
                                    std::span<const Tensor> inputs) {
  const Builder builder(signature, inputs);
  const auto& arguments = schema.arguments();
  std::vector<IValue> values;
  values.reserve(arguments.size());
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const c10::Argument& argument = arguments[i];
    if (i - 1 < signature.args.size()) {
      values.push_back(builder.build(signature.args[i - 1], argument.type()));
      continue;
    }
    const auto named =
        std::find_if(signature.kwargs.begin(), signature.kwargs.end(),
                     [&](const auto& pair) { return pair.first == argument.name(); });
    if (named != signature.kwargs.end())
      values.push_back(builder.build(named->second, argument.type()));
    else if (argument.default_value())
      values.push_back(*argument.default_value());
    else if (argument.type()->kind() == TypeKind::OptionalType)
      values.emplace_back();
    else
      throw BundleError("\"" + signature.method + "\": the artifact's argument \"" +
                        argument.name() + "\" is given by nothing in the manifest" + kRemedy);
  }
  return values;
}

std::vector<Tensor> flatten_result(const Signature& signature, const IValue& result) {
  Flattener flattener(signature);
  flattener.flatten(signature.returns, result);
  return flattener.take();
}

std::vector<Tensor> flat_result(const Signature& signature, IValue result) {
  const std::size_t count = detail::result_count(signature);
  std::vector<Tensor> outputs;
  outputs.reserve(count);
  if (result.isTuple()) {
    const auto& elements = result.toTupleRef().elements();
    detail::check_result_count(signature, elements.size());
    for (std::size_t i = 0; i < count; ++i)
      outputs.push_back(to_tensor(detail::result_spec(signature, i), elements[i]));
  } else if (count == 1) {
    outputs.push_back(to_tensor(detail::result_spec(signature, 0), result));
  } else if (count != 0 || !result.isNone()) {
    throw ExecutionError("\"" + signature.method + "\" gave a " + result.tagKind() +
                         ", expected a tuple of " + std::to_string(count) + kRemedy);
  }
  return outputs;
}

}  // namespace isthmus::torch_engine
