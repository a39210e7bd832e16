#include "engines/torch/program_operand.h"

#include <ATen/core/List.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>

#include <algorithm>
#include <string>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

using c10::IValue;
using c10::TypeKind;
using c10::TypePtr;
using Kind = ProgramValue::Kind;

const TypePtr& without_optional(const TypePtr& type) {
  if (type->kind() == TypeKind::OptionalType)
    return type->castRaw<c10::OptionalType>()->getElementType();
  return type;
}

/// A number in the place of a tensor does not decide the result's dtype, as in Python.
at::Tensor wrapped_number(const c10::Scalar& number) {
  at::Tensor tensor =
      at::scalar_tensor(number, at::TensorOptions().dtype(number.isBoolean()         ? at::kBool
                                                          : number.isIntegral(false) ? at::kLong
                                                          : number.isComplex() ? at::kComplexDouble
                                                                               : at::kDouble));
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

std::int64_t to_layout(std::int64_t code) {
  switch (code) {
    case 1:
      return static_cast<std::int64_t>(at::kSparse);
    case 2:
      return static_cast<std::int64_t>(at::kSparseCsr);
    case 3:
      return static_cast<std::int64_t>(at::kSparseCsc);
    case 4:
      return static_cast<std::int64_t>(at::kSparseBsr);
    case 5:
      return static_cast<std::int64_t>(at::kSparseBsc);
    case 6:
      return static_cast<std::int64_t>(at::kMkldnn);
    case 7:
      return static_cast<std::int64_t>(at::kStrided);
    default:
      throw BundleError("the program uses the layout " + std::to_string(code) +
                        ", which this torch does not know; export it again with the torch that is "
                        "used here");
  }
}

std::int64_t to_memory_format(std::int64_t code) {
  switch (code) {
    case 1:
      return static_cast<std::int64_t>(at::MemoryFormat::Contiguous);
    case 2:
      return static_cast<std::int64_t>(at::MemoryFormat::ChannelsLast);
    case 3:
      return static_cast<std::int64_t>(at::MemoryFormat::ChannelsLast3d);
    case 4:
      return static_cast<std::int64_t>(at::MemoryFormat::Preserve);
    default:
      throw BundleError("the program uses the memory format " + std::to_string(code) +
                        ", which this torch does not know; export it again with the torch that is "
                        "used here");
  }
}

c10::Device to_device(const std::string& text, c10::Device loaded_on) {
  if (text.starts_with("cpu") || text.starts_with("cuda")) return loaded_on;
  if (text == "meta") return c10::Device(c10::DeviceType::Meta);
  throw BundleError("the program makes tensors on the device \"" + text +
                    "\", expected cpu or cuda; export it again on one of them");
}

class Maker {
 public:
  Maker(const c10::Argument& parameter, const OperandContext& context)
      : parameter_(parameter), context_(context) {}

  Operand make(const ProgramValue& value, const TypePtr& declared) const {
    const TypePtr& type = without_optional(declared);
    if (value.kind == Kind::kSlot) return slot(value, type);
    if (value.kind == Kind::kNone) return {};
    if (type->kind() == TypeKind::ListType) return list(value, type);
    return {.constant = constant(value, type)};
  }

 private:
  [[noreturn]] void refuse(const TypePtr& type) const {
    throw BundleError("the argument \"" + parameter_.name() + "\" has the type " +
                      type->repr_str() +
                      ", and the program gives another kind of value; export it "
                      "again with the torch that is used here");
  }

  Operand slot(const ProgramValue& value, const TypePtr& type) const {
    const auto at = static_cast<std::size_t>(value.integer);
    if (const IValue& tensor = (*context_.tensors)[at]; !tensor.isNone())
      return {.constant = tensor};
    Operand operand{.kind = Operand::Kind::kSlot, .slot = static_cast<std::uint32_t>(at)};
    if (type->kind() == TypeKind::TensorType) operand.want = Operand::Want::kTensor;
    if (type->kind() == TypeKind::FloatType) operand.want = Operand::Want::kFloat;
    if (type->kind() == TypeKind::IntType) operand.want = Operand::Want::kInt;
    return operand;
  }

  Operand list(const ProgramValue& value, const TypePtr& type) const {
    const TypePtr& element = type->castRaw<c10::ListType>()->getElementType();
    Operand operand{.kind = Operand::Kind::kList, .element = element};
    if (value.kind == Kind::kList) {
      for (const ProgramValue& item : value.items) operand.items.push_back(make(item, element));
    } else if (parameter_.N()) {  // int[2] takes a single number
      operand.items.assign(static_cast<std::size_t>(*parameter_.N()), make(value, element));
    } else {
      refuse(type);
    }
    const bool fixed =
        std::all_of(operand.items.begin(), operand.items.end(),
                    [](const auto& item) { return item.kind == Operand::Kind::kConstant; });
    if (!fixed) return operand;
    Frame none;
    return {.constant = value_of(operand, none)};
  }

  IValue constant(const ProgramValue& value, const TypePtr& type) const {
    switch (type->kind()) {
      case TypeKind::TensorType:
        return wrapped_number(number(value, type).toScalar());
      case TypeKind::FloatType:
        return number(value, type).toScalar().toDouble();
      case TypeKind::IntType:
        return whole(value, type);
      case TypeKind::BoolType:
        if (value.kind == Kind::kBool) return value.integer != 0;
        break;
      case TypeKind::NumberType:
      case TypeKind::ComplexType:
        return number(value, type);
      case TypeKind::StringType:
        if (value.kind == Kind::kText) return value.text;
        break;
      case TypeKind::DeviceObjType:
        if (value.kind == Kind::kDevice) return to_device(value.text, context_.device);
        break;
      default:
        break;
    }
    refuse(type);
  }

  IValue number(const ProgramValue& value, const TypePtr& type) const {
    if (value.kind == Kind::kInt) return value.integer;
    if (value.kind == Kind::kBool) return value.integer != 0;
    if (value.kind == Kind::kFloat) return value.real;
    if (value.kind == Kind::kComplex) return c10::complex<double>(value.real, value.imaginary);
    refuse(type);
  }

  /// Dtypes, layouts and memory formats are integers to the dispatcher.
  IValue whole(const ProgramValue& value, const TypePtr& type) const {
    switch (value.kind) {
      case Kind::kInt:
      case Kind::kBool:
        return value.integer;
      case Kind::kDtype:
        return static_cast<std::int64_t>(to_scalar_type(value.integer));
      case Kind::kLayout:
        return to_layout(value.integer);
      case Kind::kMemoryFormat:
        return to_memory_format(value.integer);
      default:
        refuse(type);
    }
  }

  const c10::Argument& parameter_;
  const OperandContext& context_;
};

/// Converts a number that the graph computed to what the parameter takes.
IValue converted(IValue value, Operand::Want want) {
  switch (want) {
    case Operand::Want::kTensor:
      if (value.isScalar()) return wrapped_number(value.toScalar());
      break;
    case Operand::Want::kFloat:
      if (value.isInt() || value.isBool()) return value.toScalar().toDouble();
      break;
    case Operand::Want::kInt:
      if (value.isBool()) return static_cast<std::int64_t>(value.toBool());
      break;
    case Operand::Want::kAny:
      break;
  }
  return value;
}

}  // namespace

at::ScalarType to_scalar_type(std::int64_t schema_dtype) {
  switch (schema_dtype) {
    case 1:
      return at::kByte;
    case 2:
      return at::kChar;
    case 3:
      return at::kShort;
    case 4:
      return at::kInt;
    case 5:
      return at::kLong;
    case 6:
      return at::kHalf;
    case 7:
      return at::kFloat;
    case 8:
      return at::kDouble;
    case 9:
      return at::kComplexHalf;
    case 10:
      return at::kComplexFloat;
    case 11:
      return at::kComplexDouble;
    case 12:
      return at::kBool;
    case 13:
      return at::kBFloat16;
    case 28:
      return at::kUInt16;
    case 29:
      return at::kFloat8_e4m3fn;
    case 30:
      return at::kFloat8_e5m2;
    case 31:
      return at::kFloat8_e4m3fnuz;
    case 32:
      return at::kFloat8_e5m2fnuz;
    case 33:
      return at::kFloat8_e8m0fnu;
    case 34:
      return at::kUInt32;
    case 35:
      return at::kUInt64;
    default:
      throw BundleError("the program uses the dtype " + std::to_string(schema_dtype) +
                        " of torch's export schema, which this torch does not know; export it "
                        "again with the torch that is used here");
  }
}

Operand make_operand(const ProgramValue& value, const c10::Argument& parameter,
                     const OperandContext& context) {
  return Maker(parameter, context).make(value, parameter.type());
}

Operand make_operand(const ProgramValue& value, const OperandContext& context) {
  switch (value.kind) {
    case Kind::kNone:
    case Kind::kGraph:
      return {};
    case Kind::kSlot: {
      const auto at = static_cast<std::size_t>(value.integer);
      if (const IValue& tensor = (*context.tensors)[at]; !tensor.isNone())
        return {.constant = tensor};
      return {.kind = Operand::Kind::kSlot, .slot = static_cast<std::uint32_t>(at)};
    }
    case Kind::kInt:
      return {.constant = value.integer};
    case Kind::kBool:
      return {.constant = value.integer != 0};
    case Kind::kFloat:
      return {.constant = value.real};
    case Kind::kComplex:
      return {.constant = c10::complex<double>(value.real, value.imaginary)};
    case Kind::kText:
      return {.constant = value.text};
    case Kind::kDtype:
      return {.constant = static_cast<std::int64_t>(to_scalar_type(value.integer))};
    case Kind::kLayout:
      return {.constant = to_layout(value.integer)};
    case Kind::kMemoryFormat:
      return {.constant = to_memory_format(value.integer)};
    case Kind::kDevice:
      return {.constant = to_device(value.text, context.device)};
    case Kind::kList: {
      Operand operand{.kind = Operand::Kind::kList, .element = c10::AnyType::get()};
      for (const ProgramValue& item : value.items)
        operand.items.push_back(make_operand(item, context));
      return operand;
    }
  }
  return {};
}

IValue value_of(const Operand& operand, Frame& frame) {
  switch (operand.kind) {
    case Operand::Kind::kConstant:
      return operand.constant;
    case Operand::Kind::kSlot:
      return converted(frame[operand.slot], operand.want);
    case Operand::Kind::kTake:
      return converted(std::move(frame[operand.slot]), operand.want);
    case Operand::Kind::kList:
      break;
  }
  c10::impl::GenericList list(operand.element);
  list.reserve(operand.items.size());
  for (const Operand& item : operand.items) list.push_back(value_of(item, frame));
  return list;
}

}  // namespace isthmus::torch_engine
