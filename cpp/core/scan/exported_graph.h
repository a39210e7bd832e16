#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "core/files/json_reader.h"
#include "isthmus/exported_program.h"

namespace isthmus::detail {

/// Collects what the graphs of a program call, and judges every operator.
class OperatorJudge {
 public:
  OperatorJudge(ExportedScan& scan, const std::set<std::string>& allowed_namespaces)
      : scan_(scan), allowed_namespaces_(allowed_namespaces) {}

  /// Sets the operator of a node from the target that the file names, and refuses what may not run.
  /// @param target  such as "torch.ops.aten.linear.default"
  void judge(std::string_view target, const std::string& path, ProgramNode& node);

  /// Adds a finding. Only the first 1000 are kept.
  void refuse(std::string kind, std::string what, std::string where);

 private:
  void judge_torch_operator(const std::string& space, const std::string& op,
                            const std::string& where);

  ExportedScan& scan_;
  const std::set<std::string>& allowed_namespaces_;
};

/// The names of the graph's values, by which a signature refers to its inputs.
struct GraphNames {
  std::map<std::string, std::size_t, std::less<>> slots;
};

/// Reads a graph of the schema with all graphs inside it.
/// @param names  receives the slot of each name
/// @throws JsonError when the graph is not one that torch writes.
ProgramGraph read_program_graph(const JsonReader& graph, OperatorJudge& judge, GraphNames& names);

/// Reads an argument outside of any graph, such as a constant input. @throws JsonError.
ProgramValue read_constant(const JsonReader& value);

}  // namespace isthmus::detail
