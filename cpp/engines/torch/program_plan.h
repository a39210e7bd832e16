#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "engines/torch/number_operators.h"
#include "engines/torch/program_operand.h"
#include "isthmus/exported_program.h"

namespace isthmus::torch_engine {

class ProgramPlan;

/// The values of a call of a graph: the values of its inputs, or of its outputs.
using Values = std::vector<c10::IValue>;

/// The place of a result: a slot, or the slots of the items of a list; nothing for a result that
/// is not kept.
struct ResultPlace {
  std::optional<std::uint32_t> slot;
  std::vector<std::uint32_t> items;
  bool is_list = false;
};

/// One call in a plan.
struct Step {
  enum class Kind : std::uint8_t {
    kOperator,  ///< through LibTorch's dispatcher
    kNumber,    ///< Python's operators on numbers
    kSize,      ///< aten::sym_size, the size of one dimension
    kRange,     ///< aten::sym_constrain_range: a check of a number
    kCond,
    kWhile,
    kMap,
    kScan,
    kWrap,  ///< a graph that runs as it is
    kAutocast,
  };
  Kind kind = Kind::kOperator;
  std::optional<c10::OperatorHandle> op;
  NumberOperator number = nullptr;
  std::vector<Operand> arguments;
  std::vector<std::uint32_t> written;  ///< the arguments that the operator writes
  std::vector<std::shared_ptr<const ProgramPlan>> graphs;
  std::vector<ResultPlace> results;
  std::vector<std::uint32_t> released;  ///< slots whose values are not needed after the step
  std::string label;                    ///< "aten::linear (model.py:13)"
};

/// What a program's graphs are prepared with.
struct PlanContext {
  c10::Device device;  ///< to which all device literals are moved
  /// The storages of the weights, which steps must not write: calls and forks share them.
  std::shared_ptr<const std::unordered_set<const c10::StorageImpl*>> weights;
};

/// A graph of an exported program, prepared to run: operators are found and compared with their
/// schemas, constants are converted, and each value is released after its last use. Immutable, so
/// that threads share it.
class ProgramPlan {
 public:
  /// Prepares a graph and all graphs inside it.
  /// @param tensors  by slot: the stored tensor that is the same in each call; None elsewhere
  /// @throws BundleError when an operator is missing here, or its schema is another one.
  ProgramPlan(const ProgramGraph& graph, const std::vector<c10::IValue>& tensors,
              const PlanContext& context);

  /// Runs the graph.
  /// @param inputs  by the graph's inputs; those that are stored tensors or constants are ignored
  /// @throws ExecutionError, or what LibTorch throws.
  [[nodiscard]] Values run(Values inputs) const;

 private:
  void run_step(const Step& step, Frame& frame, torch::jit::Stack& stack) const;
  void store(const Step& step, torch::jit::Stack& results, Frame& frame) const;

  std::vector<std::optional<std::uint32_t>> inputs_;
  std::vector<Step> steps_;
  std::vector<Operand> outputs_;
  std::size_t slots_ = 0;
  PlanContext context_;
};

}  // namespace isthmus::torch_engine
