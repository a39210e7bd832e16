#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "isthmus/exported_program.h"
#include "tests/zip_writer.h"

using namespace isthmus;
using nlohmann::json;
using testing::ZipRecord;

namespace {

json tensor(const char* name) {
  return {{"as_tensor", {{"name", name}}}};
}

json node(const char* target, json inputs, json outputs) {
  json named = json::array();
  for (auto& [name, value] : inputs.items()) named.push_back({{"name", name}, {"arg", value}});
  return {{"target", target},
          {"inputs", named},
          {"outputs", std::move(outputs)},
          {"metadata", {{"stack_trace", "  File \"net/net.py\", line 7, in forward\n"}}}};
}

/// A program that scales its input by a weight, then takes a branch.
json good_model() {
  const json branch = {
      {"inputs", {tensor("a")}},
      {"nodes", {node("torch.ops.aten.sin.default", {{"self", tensor("a")}}, {tensor("b")})}},
      {"outputs", {tensor("b")}}};
  const json graph_argument = {{"as_graph", {{"name", "g"}, {"graph", branch}}}};
  json cond = node("torch.ops.higher_order.cond", json::object(), {tensor("c")});
  for (const json& value : {json{{"as_bool", true}}, graph_argument, graph_argument,
                            json{{"as_tensors", {{{"name", "y"}}}}}})
    cond["inputs"].push_back({{"name", ""}, {"arg", value}});
  return {{"graph_module",
           {{"graph",
             {{"inputs", {tensor("w"), tensor("x")}},
              {"nodes",
               {node("torch.ops.aten.mul.Tensor", {{"self", tensor("x")}, {"other", tensor("w")}},
                     {tensor("y")}),
                cond}},
              {"outputs", {tensor("c")}}}},
            {"signature",
             {{"input_specs",
               {{{"parameter", {{"arg", {{"name", "w"}}}, {"parameter_name", "weight"}}}},
                {{"user_input", {{"arg", tensor("x")}}}}}},
              {"output_specs", {{{"user_output", {{"arg", tensor("c")}}}}}}}}}},
          {"schema_version", {{"major", 8}, {"minor", 20}}},
          {"torch_version", "2.13.0"}};
}

json good_weights() {
  return {{"config",
           {{"weight",
             {{"path_name", "weight_0"},
              {"use_pickle", false},
              {"tensor_meta",
               {{"dtype", 7},
                {"sizes", {{{"as_int", 2}}, {{"as_int", 3}}}},
                {"strides", {{{"as_int", 3}}, {{"as_int", 1}}}},
                {"storage_offset", {{"as_int", 0}}},
                {"layout", 7}}}}}}}};
}

std::vector<ZipRecord> records(const std::string& model, const std::string& weights) {
  return {{.name = "m/models/model.json", .data = model},
          {.name = "m/data/weights/model_weights_config.json", .data = weights},
          {.name = "m/data/weights/weight_0", .data = std::string(24, '\1')},
          {.name = "m/data/constants/model_constants_config.json", .data = R"({"config": {}})"}};
}

ExportedScan scan(const json& model, const json& weights = good_weights()) {
  return read_exported_program(
      testing::as_bytes(testing::ZipWriter::write(records(model.dump(), weights.dump()))));
}

}  // namespace

TEST_CASE("a program is read with its slots, weights and sources") {
  const std::string file =
      testing::ZipWriter::write(records(good_model().dump(), good_weights().dump()));
  const ExportedScan found = read_exported_program(testing::as_bytes(file));
  REQUIRE_MESSAGE(!found.refused(), found.describe());
  const ExportedProgram& program = found.program;
  CHECK(program.torch_version == "2.13.0");
  CHECK(program.graph.slots == 4);
  REQUIRE(program.graph.nodes.size() == 2);
  CHECK(program.graph.nodes[0].op == "aten::mul");
  CHECK(program.graph.nodes[0].overload == "Tensor");
  CHECK(program.graph.nodes[0].where == "net.py:7");
  CHECK(program.graph.nodes[1].arguments[1].value.graph->nodes[0].op == "aten::sin");
  CHECK(found.operators.at("aten::sin") == 2);
  CHECK(program.inputs[0].name == "weight");
  const ProgramTensor& weight = program.tensors.at("weight");
  CHECK(file.substr(weight.record, weight.record_size) == std::string(24, '\1'));
  CHECK(program.graph_text().find("%2 = aten::mul.Tensor(other=%0, self=%1)  # net.py:7") !=
        std::string::npos);
}

TEST_CASE("a tensor has to lie within its record") {
  for (const auto& [key, value] : {std::pair("sizes", 3), std::pair("strides", 4)}) {
    json weights = good_weights();
    weights["config"]["weight"]["tensor_meta"][key][0]["as_int"] = value;
    CHECK(scan(good_model(), weights).describe().find("within its record") != std::string::npos);
  }
  json empty = good_weights();
  empty["config"]["weight"]["tensor_meta"]["sizes"][0]["as_int"] = 0;
  CHECK(!scan(good_model(), empty).refused());
}

TEST_CASE("findings are counted and not repeated without end") {
  json model = good_model();
  for (int i = 0; i < 2000; ++i)
    model["graph_module"]["graph"]["nodes"].push_back(
        node("torch.ops.aten.save.default", json::object(), json::array()));
  const ExportedScan found = scan(model);
  CHECK(found.findings.size() == 1001);
  CHECK(found.findings.back().kind == "limit");
}

TEST_CASE("no change of the documents ends the scan with anything but findings") {
  std::mt19937 random(0);
  const std::string model = good_model().dump();
  const std::string weights = good_weights().dump();
  const std::vector<std::string> pieces{"",       "0",    "-1", "9", "1e9",
                                        "\"",     "{",    "}",  "[", "]",
                                        "null",   "true", ",",  ":", "18446744073709551616",
                                        "\\u0000"};
  std::size_t accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string changed[] = {model, weights};
    std::string& text = changed[random() % 2];
    for (std::size_t edits = 1 + random() % 3; edits > 0; --edits)
      text.replace(random() % text.size(), random() % 4, pieces[random() % pieces.size()]);
    const ExportedScan found = read_exported_program(
        testing::as_bytes(testing::ZipWriter::write(records(changed[0], changed[1]))));
    if (found.refused()) continue;
    ++accepted;
    // What is accepted can be gone through without leaving the archive.
    for (const auto& [name, tensor] : found.program.tensors) CHECK(tensor.record_size == 24);
    CHECK(!found.program.graph_text().empty());
  }
  CHECK(accepted > 100);
}

TEST_CASE("no change of the archive ends the scan with anything but findings") {
  std::mt19937 random(1);
  const std::string file =
      testing::ZipWriter::write(records(good_model().dump(), good_weights().dump()));
  for (int round = 0; round < 20000; ++round) {
    std::string changed = file;
    for (std::size_t edits = 1 + random() % 4; edits > 0; --edits)
      changed[random() % changed.size()] = static_cast<char>(random());
    if (random() % 4 == 0) changed.resize(random() % changed.size());
    (void)read_exported_program(testing::as_bytes(changed)).describe();
  }
}
