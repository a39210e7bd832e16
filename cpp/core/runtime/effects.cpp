#include "core/runtime/effects.h"

#include <array>
#include <string>

#include "core/bundle/methods.h"
#include "core/bundle/refusals.h"
#include "core/tensor/memory.h"
#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

[[noreturn]] void refuse_writing(const ValueSpec& spec, const std::string& why) {
  throw InvalidInput(input_label(spec) + "the call writes it in place, and " + why);
}

}  // namespace

std::vector<Tensor> written_buffers(const Signature& signature, std::span<const Tensor> given) {
  std::vector<Tensor> buffers;
  buffers.reserve(signature.writes.size());
  for (const std::size_t written : signature.writes) {
    const ValueSpec& spec = signature.inputs[written];
    const Tensor& buffer = given[written];
    buffers.push_back(buffer);
    if (!buffer.defined()) continue;
    if (buffer.read_only())
      refuse_writing(spec,
                     buffer.describe() + " cannot be written (it is read-only); pass a copy of it");
    if (overlaps_itself(buffer))
      refuse_writing(spec, buffer.describe() +
                               " has several elements in the same memory (it was expanded or "
                               "broadcast); pass a copy of it");
    for (std::size_t i = 0; i < given.size(); ++i)
      if (i != written && share_elements(buffer, given[i]))
        refuse_writing(spec, "it shares memory with the input " +
                                 in_quotes(signature.inputs[i].name) +
                                 "; pass a copy of one of them");
  }
  return buffers;
}

std::vector<Tensor> take_written(const Signature& signature, std::span<const Tensor> inputs,
                                 std::vector<Tensor>& results) {
  const std::size_t outputs = signature.outputs.size();
  check_result_count(signature, results.size());
  std::vector<Tensor> values(
      std::make_move_iterator(results.begin() + static_cast<std::ptrdiff_t>(outputs)),
      std::make_move_iterator(results.end()));
  results.resize(outputs);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Tensor& input = inputs[signature.writes[i]];
    const Tensor& value = values[i];
    if (!input.defined()) continue;
    if (!value.defined() || value.dtype() != input.dtype() || value.shape() != input.shape())
      throw ExecutionError(input_label(signature.inputs[signature.writes[i]]) + "the call of " +
                           in_quotes(signature.method) + " writes it, and gave " +
                           value.describe() + " for " + input.describe() +
                           "; the artifact does not do what its manifest says: export it again");
  }
  return values;
}

void separate_outputs(Executable& executable, std::span<const Tensor> inputs,
                      std::vector<Tensor>& outputs) {
  std::array<MemoryRange, 16> few;  // most calls need no allocation
  std::vector<MemoryRange> many;
  MemoryRange* taken = few.data();
  if (inputs.size() + outputs.size() > few.size()) {
    many.resize(inputs.size() + outputs.size());
    taken = many.data();
  }
  MemoryRange* next = taken;
  for (const Tensor& input : inputs) *next++ = memory_range(input);
  for (Tensor& output : outputs) {
    const MemoryRange range = memory_range(output);
    bool shared = false;
    for (const MemoryRange* other = taken; other != next; ++other)
      shared = shared || range.meets(*other);
    if (shared)
      output = executable.copy(output);
    else
      *next++ = range;
  }
}

void write_back(Executable& executable, std::span<const Tensor> values,
                std::span<const Tensor> buffers) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (buffers[i].defined()) executable.write(values[i], buffers[i]);
}

}  // namespace isthmus::detail
