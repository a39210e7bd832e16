#pragma once

#include <cstddef>
#include <span>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::detail {

/// Replaces each input, in the signature's order, with `transfer(input)`. Scalars stay on the CPU,
/// where they are read.
template <typename Transfer>
void transfer_tensors(const Signature& signature, std::span<Tensor> inputs,
                      const Transfer& transfer) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined() && signature.inputs[i].kind == ValueKind::kTensor)
      inputs[i] = transfer(inputs[i]);
}

}  // namespace isthmus::detail
