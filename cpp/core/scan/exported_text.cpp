#include <nlohmann/json.hpp>
#include <string>

#include "isthmus/exported_program.h"

namespace isthmus {
namespace {

using Kind = ProgramValue::Kind;

std::string text_of(const ProgramValue& value) {
  switch (value.kind) {
    case Kind::kNone:
      return "None";
    case Kind::kSlot:
      return "%" + std::to_string(value.integer);
    case Kind::kInt:
      return std::to_string(value.integer);
    case Kind::kFloat:
      return nlohmann::json(value.real).dump();
    case Kind::kBool:
      return value.integer != 0 ? "True" : "False";
    case Kind::kComplex:
      return nlohmann::json(value.real).dump() + "+" + nlohmann::json(value.imaginary).dump() + "j";
    case Kind::kText:
      return nlohmann::json(value.text)
          .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    case Kind::kDtype:
      return "dtype " + std::to_string(value.integer);
    case Kind::kLayout:
      return "layout " + std::to_string(value.integer);
    case Kind::kMemoryFormat:
      return "memory format " + std::to_string(value.integer);
    case Kind::kDevice:
      return value.text;
    case Kind::kGraph:
      return "graph";
    case Kind::kList:
      break;
  }
  std::string text;
  for (const ProgramValue& item : value.items) text += (text.empty() ? "" : ", ") + text_of(item);
  return "[" + text + "]";
}

void write(const ProgramGraph& graph, const std::string& indent, std::string& text) {
  for (const ProgramNode& node : graph.nodes) {
    std::string results;
    for (const ProgramValue& result : node.results)
      results += (results.empty() ? "" : ", ") + text_of(result);
    text += indent + (results.empty() ? "" : results + " = ") + node.op +
            (node.overload.empty() ? "" : "." + node.overload) + "(";
    std::string arguments;
    for (const ProgramArgument& argument : node.arguments)
      arguments += (arguments.empty() ? "" : ", ") +
                   (argument.name.empty() ? "" : argument.name + "=") + text_of(argument.value);
    text += arguments + ")" + (node.where.empty() ? "" : "  # " + node.where) + "\n";
    for (const ProgramArgument& argument : node.arguments)
      if (argument.value.graph) {
        text += indent + "  graph:\n";
        write(*argument.value.graph, indent + "    ", text);
      }
  }
  std::string outputs;
  for (const ProgramValue& output : graph.outputs)
    outputs += (outputs.empty() ? "" : ", ") + text_of(output);
  text += indent + "return " + outputs + "\n";
}

}  // namespace

std::string ExportedProgram::graph_text() const {
  std::string text;
  for (std::size_t i = 0; i < inputs.size() && i < graph.inputs.size(); ++i)
    text += text_of(graph.inputs[i]) + ": " +
            (inputs[i].kind == ProgramInput::Kind::kUser ? "input" : "tensor " + inputs[i].name) +
            "\n";
  write(graph, "", text);
  return text;
}

}  // namespace isthmus
