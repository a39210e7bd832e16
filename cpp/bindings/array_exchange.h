#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/dlpack_exchange.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::bindings {

/// Where arrays come from, and so where results go back to.
struct Family {
  enum class Kind : std::uint8_t { kNone, kNumpy, kTorch, kOther };
  Kind kind = Kind::kNone;
  const dlpack::ExchangeApi* exchange = nullptr;  ///< torch
  pybind11::object from_dlpack;                   ///< others, e.g. jax.numpy.from_dlpack

  /// torch wins over others, and others over NumPy, when inputs are mixed.
  void meet(const Family& other);
};

/// A Python value as a tensor, without a copy where the producer allows it; the value must outlive
/// the tensor. Numbers serve scalar inputs, None an absent optional one.
/// @throws InvalidInput naming the input.
Tensor to_tensor(pybind11::handle value, const ValueSpec& spec, Family& family);

/// The same for any array, without a signature. `name` is for messages.
Tensor to_tensor(pybind11::handle value, const std::string& name, Family& family);

/// A tensor as an array of the family, sharing the memory; None when undefined. Scalars (by `kind`)
/// become Python numbers.
pybind11::object to_python(const Tensor& tensor, ValueKind kind, const Family& family);

}  // namespace isthmus::bindings
