#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// Returns a binary key for the calls that one recording serves: calls of one method whose inputs
/// have the same dtypes, shapes and devices, are absent in the same places, and have the same
/// values on the CPU (scalars), which a recording holds as constants.
inline std::string shape_bucket(std::size_t method, std::span<const Tensor> inputs) {
  std::string key;
  const auto append = [&key](std::int64_t number) {
    key.append(reinterpret_cast<const char*>(&number), sizeof number);
  };
  append(static_cast<std::int64_t>(method));
  for (const Tensor& input : inputs) {
    append(input.defined() ? static_cast<std::int64_t>(input.dtype()) : -1);
    if (!input.defined()) continue;
    append(input.device().is_cpu() ? -1 : input.device().index);
    append(static_cast<std::int64_t>(input.rank()));
    for (const std::int64_t size : input.shape()) append(size);
    if (input.device().is_cpu() && input.nbytes() != 0)
      key.append(static_cast<const char*>(input.data()), input.nbytes());
  }
  return key;
}

}  // namespace isthmus::torch_engine
