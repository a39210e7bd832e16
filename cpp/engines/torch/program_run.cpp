// Runs the steps of a program plan.
#include <ATen/autocast_mode.h>
#include <ATen/ops/stack.h>

#include <string>
#include <utility>

#include "engines/torch/program_plan.h"
#include "engines/torch/torch_formats.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

using c10::IValue;
using torch::jit::Stack;

/// Returns the items of an argument that is a list.
Values items_of(const Operand& operand, Frame& frame) {
  Values items;
  items.reserve(operand.items.size());
  for (const Operand& item : operand.items) items.push_back(value_of(item, frame));
  return items;
}

bool is_true(const IValue& value) {
  if (value.isBool()) return value.toBool();
  if (value.isTensor()) return value.toTensor().item().toBool();
  throw ExecutionError("the condition is a " + value.tagKind() + ", expected a boolean");
}

/// Returns the graph's inputs: the leading ones, and then those that all calls share.
Values joined(Values first, const Values& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

/// Returns one slice of each tensor along the first dimension.
Values slices(const Values& tensors, std::int64_t index) {
  Values result;
  result.reserve(tensors.size());
  for (const IValue& tensor : tensors) result.emplace_back(tensor.toTensor().select(0, index));
  return result;
}

std::int64_t common_length(const Values& tensors) {
  if (tensors.empty()) throw ExecutionError("there is no tensor to go through");
  const std::int64_t length = tensors.front().toTensor().size(0);
  for (const IValue& tensor : tensors)
    if (tensor.toTensor().size(0) != length)
      throw ExecutionError("the tensors to go through have different lengths");
  return length;
}

/// Stacks the results of all rounds, by their place.
void append_stacked(const std::vector<Values>& rounds, std::size_t from, Values& results) {
  if (rounds.empty()) throw ExecutionError("it goes through tensors of length 0");
  for (std::size_t place = from; place < rounds.front().size(); ++place) {
    std::vector<at::Tensor> pieces;
    pieces.reserve(rounds.size());
    for (const Values& round : rounds) pieces.push_back(round[place].toTensor());
    results.emplace_back(at::stack(pieces));
  }
}

Values run_while(const Step& step, Frame& frame) {
  Values carried = items_of(step.arguments[0], frame);
  const Values shared = items_of(step.arguments[1], frame);
  const std::size_t count = carried.size();
  while (true) {
    const Values condition = step.graphs[0]->run(joined(carried, shared));
    if (condition.size() != 1) throw ExecutionError("the condition is not a single value");
    if (!is_true(condition.front())) return carried;
    carried = step.graphs[1]->run(joined(std::move(carried), shared));
    if (carried.size() != count) throw ExecutionError("a round gave another number of values");
  }
}

Values run_map(const Step& step, Frame& frame) {
  const Values mapped = items_of(step.arguments[0], frame);
  const Values shared = items_of(step.arguments[1], frame);
  const std::int64_t length = common_length(mapped);
  std::vector<Values> rounds;
  for (std::int64_t i = 0; i < length; ++i)
    rounds.push_back(step.graphs[0]->run(joined(slices(mapped, i), shared)));
  Values results;
  append_stacked(rounds, 0, results);
  return results;
}

Values run_scan(const Step& step, Frame& frame) {
  Values carried = items_of(step.arguments[0], frame);
  const Values scanned = items_of(step.arguments[1], frame);
  const Values shared = items_of(step.arguments[2], frame);
  const std::size_t count = carried.size();
  const std::int64_t length = common_length(scanned);
  std::vector<Values> rounds;
  for (std::int64_t i = 0; i < length; ++i) {
    Values round =
        step.graphs[0]->run(joined(joined(std::move(carried), slices(scanned, i)), shared));
    if (round.size() < count) throw ExecutionError("a round gave another number of values");
    const auto carry_end = round.begin() + static_cast<std::ptrdiff_t>(count);
    carried.assign(round.begin(), carry_end);
    rounds.push_back(std::move(round));
  }
  append_stacked(rounds, count, carried);
  return carried;
}

/// Sets the autocast mode of one device until it is destroyed.
class Autocast {
 public:
  Autocast(c10::DeviceType device, std::optional<at::ScalarType> dtype, bool enabled)
      : device_(device),
        was_enabled_(at::autocast::is_autocast_enabled(device)),
        had_dtype_(at::autocast::get_autocast_dtype(device)) {
    at::autocast::set_autocast_enabled(device, enabled);
    if (dtype) at::autocast::set_autocast_dtype(device, *dtype);
    at::autocast::increment_nesting();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  ~Autocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, was_enabled_);
    at::autocast::set_autocast_dtype(device_, had_dtype_);
  }

 private:
  c10::DeviceType device_;
  bool was_enabled_;
  at::ScalarType had_dtype_;
};

Values arguments_from(const Step& step, std::size_t first, Frame& frame) {
  Values values;
  for (std::size_t i = first; i < step.arguments.size(); ++i)
    values.push_back(value_of(step.arguments[i], frame));
  return values;
}

/// wrap_with_autocast(device_type, dtype, enabled, cache_enabled, graph, *arguments)
Values run_autocast(const Step& step, Frame& frame) {
  const c10::Device device(value_of(step.arguments[0], frame).toStringRef());
  const IValue dtype = value_of(step.arguments[1], frame);
  const bool enabled = is_true(value_of(step.arguments[2], frame));
  const auto scalar_type =
      dtype.isInt() ? std::optional(static_cast<at::ScalarType>(dtype.toInt())) : std::nullopt;
  const Autocast autocast(device.type(), scalar_type, enabled);
  return step.graphs[0]->run(arguments_from(step, 4, frame));
}

void check_range(const Step& step, Frame& frame) {
  const IValue value = value_of(step.arguments[0], frame);
  const IValue least = value_of(step.arguments[1], frame);
  const IValue most = value_of(step.arguments[2], frame);
  const std::int64_t number = value.toScalar().toLong();
  const bool fits =
      (!least.isInt() || number >= least.toInt()) && (!most.isInt() || number <= most.toInt());
  if (fits) return;
  throw ExecutionError("the number is " + std::to_string(number) + ", expected " +
                       (least.isInt() ? std::to_string(least.toInt()) : "any") + " to " +
                       (most.isInt() ? std::to_string(most.toInt()) : "any"));
}

}  // namespace

Values ProgramPlan::run(Values inputs) const {
  if (inputs.size() != inputs_.size())
    throw ExecutionError("a graph gets " + std::to_string(inputs.size()) + " values, expected " +
                         std::to_string(inputs_.size()));
  Frame frame(slots_);
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs_[i]) frame[*inputs_[i]] = std::move(inputs[i]);
  Stack stack;
  for (const Step& step : steps_) {
    try {
      run_step(step, frame, stack);
    } catch (const std::exception& error) {
      throw ExecutionError(step.label + ": " + model_error(error));
    }
    for (const std::uint32_t slot : step.released) frame[slot] = IValue();
  }
  Values outputs;
  outputs.reserve(outputs_.size());
  for (const Operand& output : outputs_) outputs.push_back(value_of(output, frame));
  return outputs;
}

void ProgramPlan::run_step(const Step& step, Frame& frame, Stack& stack) const {
  stack.clear();
  switch (step.kind) {
    case Step::Kind::kOperator:
      for (const Operand& argument : step.arguments) stack.push_back(value_of(argument, frame));
      for (const std::uint32_t written : step.written) {
        const IValue& value = stack[written];
        if (value.isTensor() && value.toTensor().has_storage() &&
            context_.weights->contains(value.toTensor().storage().unsafeGetStorageImpl()))
          throw ExecutionError(
              "it writes a weight, which calls share; export the model with its state");
      }
      step.op->callBoxed(stack);
      break;
    case Step::Kind::kNumber: {
      const Values arguments = arguments_from(step, 0, frame);
      stack.push_back(step.number(arguments));
      break;
    }
    case Step::Kind::kSize: {
      const IValue tensor = value_of(step.arguments[0], frame);
      stack.emplace_back(tensor.toTensor().size(value_of(step.arguments[1], frame).toInt()));
      break;
    }
    case Step::Kind::kRange:
      check_range(step, frame);
      break;
    case Step::Kind::kCond: {
      const bool taken = is_true(value_of(step.arguments[0], frame));
      stack = step.graphs[taken ? 0 : 1]->run(items_of(step.arguments[1], frame));
      break;
    }
    case Step::Kind::kWhile:
      stack = run_while(step, frame);
      break;
    case Step::Kind::kMap:
      stack = run_map(step, frame);
      break;
    case Step::Kind::kScan:
      stack = run_scan(step, frame);
      break;
    case Step::Kind::kWrap:
      stack = step.graphs[0]->run(arguments_from(step, 1, frame));
      break;
    case Step::Kind::kAutocast:
      stack = run_autocast(step, frame);
      break;
  }
  store(step, stack, frame);
}

void ProgramPlan::store(const Step& step, Stack& results, Frame& frame) const {
  if (step.results.empty()) return;
  if (results.size() != step.results.size())
    throw ExecutionError("it gave " + std::to_string(results.size()) + " values, expected " +
                         std::to_string(step.results.size()));
  for (std::size_t i = 0; i < results.size(); ++i) {
    const ResultPlace& place = step.results[i];
    if (place.slot) {
      frame[*place.slot] = std::move(results[i]);
    } else if (place.is_list) {
      const c10::List<IValue> items = results[i].toList();
      if (items.size() != place.items.size())
        throw ExecutionError("it gave a list of " + std::to_string(items.size()) +
                             " values, expected " + std::to_string(place.items.size()));
      for (std::size_t k = 0; k < place.items.size(); ++k) frame[place.items[k]] = items.get(k);
    }
  }
}

}  // namespace isthmus::torch_engine
