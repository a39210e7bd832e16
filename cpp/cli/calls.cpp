#include "cli/calls.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string_view>

#include "cli/format.h"
#include "isthmus/error.h"
#include "isthmus/tensor_file.h"

namespace isthmus::cli {
namespace {

constexpr std::size_t kMaxSteps = 100'000;

/// A parsed key, such as "3/in/x".
struct StepKey {
  std::size_t step = 0;
  bool input = false;
  std::string_view name;
};

std::optional<StepKey> parse_key(std::string_view key) {
  StepKey result;
  const char* const end = key.data() + key.size();
  const auto [rest, error] = std::from_chars(key.data(), end, result.step);
  if (error != std::errc{}) return std::nullopt;
  const std::string_view tail(rest, static_cast<std::size_t>(end - rest));
  result.input = tail.starts_with("/in/");
  if (!result.input && !tail.starts_with("/out/")) return std::nullopt;
  result.name = tail.substr(result.input ? 4 : 5);
  return result;
}

void set_methods(std::vector<GoldenCall>& calls, const std::vector<std::string>& methods) {
  if (methods.size() > 1 && methods.size() != calls.size())
    throw InvalidInput("--method was given " + std::to_string(methods.size()) +
                       " times, but the file of inputs holds " + count(calls.size(), "call") +
                       "; give it once for all calls, or once for each");
  for (std::size_t i = 0; i < calls.size(); ++i)
    calls[i].method = methods.empty()       ? "forward"
                      : methods.size() == 1 ? methods.front()
                                            : methods[i];
}

}  // namespace

InputFile read_calls(const std::string& path, const std::vector<std::string>& methods) {
  const NamedTensors tensors = read_tensors(path);
  InputFile file;
  const std::string* plain = nullptr;
  const std::string* stepped = nullptr;
  for (const auto& [name, tensor] : tensors) {
    const std::optional<StepKey> key = parse_key(name);
    (key ? stepped : plain) = &name;
    if (!key) continue;
    if (key->step >= kMaxSteps)
      throw InvalidInput(path + ": \"" + name + "\" counts to a call beyond " +
                         std::to_string(kMaxSteps));
    // A call without inputs, such as a reset, has no key.
    if (key->step >= file.calls.size()) file.calls.resize(key->step + 1);
    if (key->input) file.calls[key->step].inputs.add(std::string(key->name), tensor);
  }
  if (plain != nullptr && stepped != nullptr)
    throw InvalidInput(path + " mixes a plain name (\"" + *plain +
                       "\") with calls of a sequence (\"" + *stepped +
                       "\"); use names of inputs for one call, or STEP/in/NAME for all");
  file.sequence = stepped != nullptr;
  if (!file.sequence) file.calls = {GoldenCall{.method = "", .inputs = tensors, .outputs = {}}};
  set_methods(file.calls, methods);
  return file;
}

Inputs own_inputs(const Model& model, const Inputs& inputs, const std::string& method) {
  const Signature& signature = model.signature(method);
  if (!model.device().is_cpu() || signature.writes.empty())
    return model.transfer_inputs(inputs, method);
  Inputs own;
  for (const auto& [name, tensor] : inputs) {
    const bool written = std::any_of(
        signature.writes.begin(), signature.writes.end(),
        [&, &input = name](std::size_t at) { return signature.inputs[at].name == input; });
    own.add(name, written ? tensor.clone() : tensor);
  }
  return own;
}

Outputs to_cpu(const Model& model, const Outputs& outputs) {
  Outputs moved;
  for (const auto& [name, tensor] : outputs) {
    if (!tensor.defined()) continue;
    moved.add(name,
              (tensor.device().is_cpu() ? tensor : model.transfer(tensor, Device{})).contiguous());
  }
  return moved;
}

}  // namespace isthmus::cli
