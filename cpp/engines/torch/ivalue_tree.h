#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <span>
#include <vector>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// One checked value as the IValue that an argument of this type wants: a tensor, a number, None.
/// @throws BundleError when the type takes no such value.
c10::IValue to_ivalue(const ValueSpec& spec, const Tensor& tensor, const c10::TypePtr& type);

/// The arguments of a call in the structured convention, nested as the schema wants them, without
/// self.
/// @throws BundleError when signature and schema do not fit.
std::vector<c10::IValue> build_arguments(const Signature& signature,
                                         const c10::FunctionSchema& schema,
                                         std::span<const Tensor> inputs);

/// A result of the structured convention, flattened along the signature's `returns` into its
/// outputs.
/// @throws ExecutionError when the result has another structure.
std::vector<Tensor> flatten_result(const Signature& signature, const c10::IValue& result);

/// A result of the flat convention: a tuple in the outputs' order, or the single output bare.
/// @throws ExecutionError.
std::vector<Tensor> flat_result(const Signature& signature, c10::IValue result);

}  // namespace isthmus::torch_engine
