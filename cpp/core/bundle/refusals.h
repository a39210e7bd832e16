#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "isthmus/device.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

/// The errors of a call whose inputs or outputs do not fit the signature. They are made here and
/// not where the call is checked, because the code that makes a text slows down a function that
/// never needs it.
namespace isthmus::detail {

/// Returns a text such as "float32[batch, 4]".
std::string spec_text(const ValueSpec& spec);

/// Returns the beginning of a message about an input.
std::string input_label(const ValueSpec& spec);

/// Each throws InvalidInput.
/// @param device  the device of the model
[[noreturn]] void refuse_count(const Signature& signature, std::size_t given);
[[noreturn]] void refuse_missing(const ValueSpec& spec, Device device);
[[noreturn]] void refuse_dtype(const ValueSpec& spec, const Tensor& tensor, Device device);
[[noreturn]] void refuse_device(const ValueSpec& spec, const Tensor& tensor, Device device);
[[noreturn]] void refuse_rank(const ValueSpec& spec, const Tensor& tensor, Device device);
[[noreturn]] void refuse_fixed_size(const ValueSpec& spec, const Tensor& tensor, Device device,
                                    std::size_t axis);
[[noreturn]] void refuse_range(const ValueSpec& spec, const Tensor& tensor, Device device,
                               std::size_t axis, const DimRange& range);
/// @param advice  the end of the message: what is wrong, and what to do
[[noreturn]] void refuse_input(const ValueSpec& spec, const Tensor& tensor, Device device,
                               std::string_view advice);
/// @param other  the name of an input in which the dimension has the size `expected`
[[noreturn]] void refuse_unequal_size(const ValueSpec& spec, const Tensor& tensor, std::size_t axis,
                                      std::int64_t expected, const std::string& other);

/// Each throws ExecutionError.
[[noreturn]] void refuse_output(const Signature& signature, const ValueSpec& spec,
                                const Tensor& tensor, std::string_view why);
/// Refuses an output in which a dimension has another size than in the inputs.
[[noreturn]] void refuse_other_size(const Signature& signature, const ValueSpec& spec,
                                    const Tensor& tensor, std::size_t axis);

}  // namespace isthmus::detail
