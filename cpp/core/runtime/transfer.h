#pragma once

#include <cstddef>
#include <span>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::detail {

/// Puts `transfer(tensor)` in place of each input of a call, in the signature's order. Numbers stay
/// on the CPU: they are read there.
template <typename Transfer>
void transfer_tensors(const Signature& signature, std::span<Tensor> inputs,
                      const Transfer& transfer) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined() && signature.inputs[i].kind == ValueKind::kTensor)
      inputs[i] = transfer(inputs[i]);
}

}  // namespace isthmus::detail
