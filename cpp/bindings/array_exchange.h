#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/dlpack_exchange.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::bindings {

/// The library that the input arrays come from; results are returned as arrays of the same library.
struct Family {
  enum class Kind : std::uint8_t { kNone, kNumpy, kTorch, kOther };
  Kind kind = Kind::kNone;
  const dlpack::ExchangeApi* exchange = nullptr;  ///< set for torch
  pybind11::object from_dlpack;  ///< set for other libraries, such as jax.numpy.from_dlpack

  /// Adds the family of another input. torch has precedence over other libraries, and those over
  /// NumPy.
  void join(const Family& other);
};

/// Converts a Python value to a tensor, without a copy when the producer allows it; the value must
/// outlive the tensor. Accepts a number for a scalar input, and None for an absent optional one.
/// Adds the value's family to `family`.
/// @throws InvalidInput naming the input.
Tensor to_tensor(pybind11::handle value, const ValueSpec& spec, Family& family);

/// Converts any array, without a signature. `name` appears in messages.
/// @throws InvalidInput.
Tensor to_tensor(pybind11::handle value, const std::string& name, Family& family);

/// Tells torch that a call wrote the memory of a tensor, so that a gradient that would need the old
/// values is refused. Does nothing for other arrays.
void count_write(pybind11::handle value);

/// Converts a tensor to an array of the family that shares its memory. Returns None for an
/// undefined tensor, and a Python number when `kind` is a scalar.
/// @throws InvalidInput when NumPy cannot represent the tensor.
pybind11::object to_python(const Tensor& tensor, ValueKind kind, const Family& family);

}  // namespace isthmus::bindings
