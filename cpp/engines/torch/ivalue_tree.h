#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <span>
#include <vector>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Converts one checked value to the IValue for an argument of this type: a tensor, a number, None.
/// @throws BundleError when the type accepts no such value.
c10::IValue to_ivalue(const ValueSpec& spec, const Tensor& tensor, const c10::TypePtr& type);

/// Builds the arguments of a call in the structured convention, nested as the schema requires,
/// without self.
/// @throws BundleError when signature and schema do not match.
std::vector<c10::IValue> build_arguments(const Signature& signature,
                                         const c10::FunctionSchema& schema,
                                         std::span<const Tensor> inputs);

/// Flattens a result of the structured convention along the signature's `returns` into the outputs,
/// in the signature's order.
/// @throws ExecutionError when the result has another structure.
std::vector<Tensor> flatten_result(const Signature& signature, const c10::IValue& result);

/// Returns the outputs of a result of the flat convention: a tuple in the signature's order, or the
/// only output itself.
/// @throws ExecutionError when the number or the type of the values differs.
std::vector<Tensor> flat_result(const Signature& signature, c10::IValue result);

}  // namespace isthmus::torch_engine
