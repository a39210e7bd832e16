#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "isthmus/tensor.h"

namespace isthmus {

/// Makes outputs own their memory: replaces each output that is a view of borrowed memory (an input
/// without an owner, whose memory the caller may free after the call) by `copy(output)`.
template <typename Copy>
void copy_borrowed_outputs(std::vector<Tensor>& outputs, std::span<const Tensor> inputs,
                           Copy copy) {
  for (Tensor& output : outputs) {
    if (!output.defined() || output.numel() == 0) continue;
    const auto* data = static_cast<const std::byte*>(output.data());
    for (const Tensor& input : inputs) {
      if (!input.defined() || input.owner() != nullptr) continue;
      const auto* start = static_cast<const std::byte*>(input.data());
      if (data < start || data >= start + input.nbytes()) continue;
      output = copy(output);
      break;
    }
  }
}

}  // namespace isthmus
