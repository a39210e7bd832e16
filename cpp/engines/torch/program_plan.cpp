#include "engines/torch/program_plan.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

using Kind = ProgramValue::Kind;

constexpr std::string_view kAgain = "; export it again with the torch that is used here";

/// An operator that takes graphs.
struct GraphOperator {
  std::string_view name;
  Step::Kind kind;
};

constexpr GraphOperator kGraphOperators[] = {
    {"higher_order::cond", Step::Kind::kCond},
    {"higher_order::map_impl", Step::Kind::kMap},
    {"higher_order::scan", Step::Kind::kScan},
    {"higher_order::while_loop", Step::Kind::kWhile},
    {"higher_order::wrap_with_autocast", Step::Kind::kAutocast},
    {"higher_order::wrap_with_set_grad_enabled", Step::Kind::kWrap},
};

ResultPlace place_of(const ProgramValue& value) {
  ResultPlace place;
  if (value.kind == Kind::kSlot) place.slot = static_cast<std::uint32_t>(value.integer);
  place.is_list = value.kind == Kind::kList;
  for (const ProgramValue& item : value.items)
    place.items.push_back(static_cast<std::uint32_t>(item.integer));
  return place;
}

/// Prepares the steps of one graph.
class Planner {
 public:
  Planner(const std::vector<c10::IValue>& tensors, const PlanContext& context)
      : tensors_(tensors), context_(context), operands_{context.device, &tensors} {}

  Step plan(const ProgramNode& node) const {
    Step step;
    step.label = node.op + (node.where.empty() ? "" : " (" + node.where + ")");
    for (const ProgramValue& result : node.results) step.results.push_back(place_of(result));
    if ((step.number = find_number_operator(node.op)) != nullptr) {
      step.kind = Step::Kind::kNumber;
      add_plain(step, node);
    } else if (node.op.starts_with("higher_order::")) {
      plan_graphs(step, node);
    } else if (node.op == "aten::sym_size" && node.overload == "int") {
      step.kind = Step::Kind::kSize;
      add_plain(step, node);
      if (step.arguments.size() != 2) refuse(step, "takes a tensor and a dimension");
    } else if (node.op.starts_with("aten::sym_constrain_range")) {
      step.kind = Step::Kind::kRange;
      plan_range(step, node);
    } else {
      plan_operator(step, node);
    }
    return step;
  }

 private:
  [[noreturn]] static void refuse(const Step& step, const std::string& what) {
    throw BundleError("the program's " + step.label + " " + what + std::string(kAgain));
  }

  void add_plain(Step& step, const ProgramNode& node) const {
    for (const ProgramArgument& argument : node.arguments)
      step.arguments.push_back(make_operand(argument.value, operands_));
  }

  void plan_graphs(Step& step, const ProgramNode& node) const {
    const auto known =
        std::find_if(std::begin(kGraphOperators), std::end(kGraphOperators),
                     [&](const GraphOperator& entry) { return entry.name == node.op; });
    if (known == std::end(kGraphOperators)) refuse(step, "is not one that the engine runs");
    step.kind = known->kind;
    for (const ProgramArgument& argument : node.arguments) {
      if (argument.value.kind != Kind::kGraph) {
        step.arguments.push_back(make_operand(argument.value, operands_));
        continue;
      }
      const ProgramGraph& graph = *argument.value.graph;
      const std::vector<c10::IValue> none(graph.slots);
      step.graphs.push_back(std::make_shared<const ProgramPlan>(graph, none, context_));
    }
    require_form(step);
  }

  /// Requires the graphs and arguments that the run takes.
  static void require_form(const Step& step) {
    const auto require = [&](std::size_t graphs, std::size_t arguments, bool exactly) {
      const bool fits =
          step.graphs.size() == graphs &&
          (exactly ? step.arguments.size() == arguments : step.arguments.size() >= arguments);
      if (!fits) refuse(step, "has other arguments than expected");
    };
    switch (step.kind) {
      case Step::Kind::kCond:
        return require(2, 2, true);
      case Step::Kind::kWhile:
        return require(2, 2, true);
      case Step::Kind::kMap:
        return require(1, 2, true);
      case Step::Kind::kScan:
        return require(1, 3, true);
      case Step::Kind::kAutocast:
        return require(1, 4, false);
      default:
        return require(1, 1, false);
    }
  }

  /// aten::sym_constrain_range(Scalar size, *, int? min, int? max)
  void plan_range(Step& step, const ProgramNode& node) const {
    std::map<std::string, const ProgramValue*> given;
    for (const ProgramArgument& argument : node.arguments) given[argument.name] = &argument.value;
    for (const char* name : {"size", "min", "max"})
      step.arguments.push_back(given.contains(name) ? make_operand(*given[name], operands_)
                                                    : Operand{});
  }

  void plan_operator(Step& step, const ProgramNode& node) const {
    step.op = c10::Dispatcher::singleton().findSchema({node.op, node.overload});
    const std::string full = node.op + (node.overload.empty() ? "" : "." + node.overload);
    if (!step.op)
      throw BundleError("the program calls " + full +
                        ", which torch " ISTHMUS_TORCH_VERSION
                        " does not have here: use a torch at least as new as the one it was "
                        "exported with, or load the library that registers it (--op-library)");
    const c10::FunctionSchema& schema = step.op->schema();
    std::map<std::string, const ProgramValue*, std::less<>> given;
    for (const ProgramArgument& argument : node.arguments)
      if (!given.emplace(argument.name, &argument.value).second)
        refuse(step, "gets the argument \"" + argument.name + "\" twice");
    for (const c10::Argument& parameter : schema.arguments()) {
      const auto value = given.find(parameter.name());
      if (value != given.end()) {
        step.arguments.push_back(make_operand(*value->second, parameter, operands_));
        given.erase(value);
      } else if (parameter.default_value()) {
        step.arguments.push_back({.constant = *parameter.default_value()});
      } else {
        refuse(step, "lacks the argument \"" + parameter.name() + "\"");
      }
      if (const c10::AliasInfo* alias = parameter.alias_info(); alias && alias->isWrite())
        step.written.push_back(static_cast<std::uint32_t>(step.arguments.size() - 1));
    }
    if (!given.empty()) refuse(step, "has no argument \"" + given.begin()->first + "\" here");
    if (schema.returns().size() != step.results.size())
      refuse(step, "gives " + std::to_string(schema.returns().size()) +
                       " values here, and the program expects " +
                       std::to_string(step.results.size()));
  }

  const std::vector<c10::IValue>& tensors_;
  const PlanContext& context_;
  OperandContext operands_;
};

/// Finds the last use of each slot, so that its value is moved there or released after it.
class LastUses {
 public:
  explicit LastUses(std::size_t slots) : seen_(slots, false) {}

  /// Goes through the steps from the last to the first; outputs were marked before.
  void visit(Step& step) {
    for (const ResultPlace& place : step.results) {
      if (place.slot) release_unused(step, *place.slot);
      for (const std::uint32_t item : place.items) release_unused(step, item);
    }
    std::vector<Operand*> uses;
    for (Operand& argument : step.arguments) collect(argument, uses);
    std::map<std::uint32_t, std::size_t> counts;
    for (const Operand* use : uses) ++counts[use->slot];
    for (Operand* use : uses) {
      if (seen_[use->slot]) continue;
      if (counts[use->slot] == 1)
        use->kind = Operand::Kind::kTake;
      else if (counts[use->slot] > 1)
        step.released.push_back(use->slot);
      seen_[use->slot] = true;
    }
  }

  void mark(const Operand& output) {
    if (output.kind == Operand::Kind::kSlot) seen_[output.slot] = true;
    for (const Operand& item : output.items) mark(item);
  }

 private:
  void release_unused(Step& step, std::uint32_t slot) {
    if (!seen_[slot]) step.released.push_back(slot);
  }

  static void collect(Operand& operand, std::vector<Operand*>& uses) {
    if (operand.kind == Operand::Kind::kSlot) uses.push_back(&operand);
    for (Operand& item : operand.items) collect(item, uses);
  }

  std::vector<bool> seen_;
};

}  // namespace

ProgramPlan::ProgramPlan(const ProgramGraph& graph, const std::vector<c10::IValue>& tensors,
                         const PlanContext& context)
    : slots_(graph.slots), context_(context) {
  for (const ProgramValue& input : graph.inputs) {
    const bool varies =
        input.kind == Kind::kSlot && tensors[static_cast<std::size_t>(input.integer)].isNone();
    inputs_.push_back(varies ? std::optional(static_cast<std::uint32_t>(input.integer))
                             : std::nullopt);
  }
  const Planner planner(tensors, context);
  for (const ProgramNode& node : graph.nodes) steps_.push_back(planner.plan(node));
  const OperandContext operands{context.device, &tensors};
  for (const ProgramValue& output : graph.outputs)
    outputs_.push_back(make_operand(output, operands));
  LastUses uses(graph.slots);
  for (const Operand& output : outputs_) uses.mark(output);
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) uses.visit(*step);
}

}  // namespace isthmus::torch_engine
