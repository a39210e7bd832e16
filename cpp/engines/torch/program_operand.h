#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <cstdint>
#include <vector>

#include "isthmus/exported_program.h"

namespace isthmus::torch_engine {

/// The values of a running graph, by slot.
using Frame = std::vector<c10::IValue>;

/// One argument of a step, prepared at load.
struct Operand {
  enum class Kind : std::uint8_t {
    kConstant,
    kSlot,
    kTake,  ///< the last use of a slot: the value is moved out
    kList,  ///< of `items`, some of which are slots
  };
  /// What the operator's schema wants where a slot may hold another kind of number.
  enum class Want : std::uint8_t { kAny, kTensor, kInt, kFloat };

  Kind kind = Kind::kConstant;
  Want want = Want::kAny;
  std::uint32_t slot = 0;
  c10::IValue constant{};
  c10::TypePtr element{};  ///< of a list
  std::vector<Operand> items{};
};

/// What the arguments of a program are made with.
struct OperandContext {
  c10::Device device;                       ///< to which all device literals are moved
  const std::vector<c10::IValue>* tensors;  ///< by slot: the stored tensor; none elsewhere
};

/// Prepares an argument for a parameter of this type.
/// @throws BundleError when the type accepts no such value.
Operand make_operand(const ProgramValue& value, const c10::Argument& parameter,
                     const OperandContext& context);

/// Prepares an argument of an operator without a schema. Lists become lists of anything.
Operand make_operand(const ProgramValue& value, const OperandContext& context);

/// Returns the value of an operand. @throws c10::Error when a slot holds another kind of value.
c10::IValue value_of(const Operand& operand, Frame& frame);

/// Returns LibTorch's dtype for a dtype of torch's export schema. @throws BundleError.
at::ScalarType to_scalar_type(std::int64_t schema_dtype);

}  // namespace isthmus::torch_engine
