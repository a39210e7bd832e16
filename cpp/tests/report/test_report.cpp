#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "isthmus/error.h"
#include "isthmus/report.h"

using namespace isthmus;

namespace {

void fill(Reporter& reporter) {
  reporter.context({{"bundle", "minilm"}, {"threads", "2"}});
  reporter.row(
      {.cells = {{"output", "hidden"}, {"max abs", "1.2e-07"}}, .json = R"({"max_abs": 1.2e-07})"});
  reporter.row({.cells = {{"output", "pooler"}, {"max abs", "0.5"}, {"golden", "b1"}},
                .json = R"({"max_abs": 0.5})",
                .passed = false,
                .reason = "beyond atol"});
  reporter.finish(false, "FAILED: 1 of 2");
}

std::string console(const std::function<void(Reporter&)>& use, const std::string& title = "title") {
  std::ostringstream out;
  const auto reporter = console_reporter(out, title);
  use(*reporter);
  return out.str();
}

}  // namespace

TEST_CASE("a table: title, facts, aligned columns, the reason below, the verdict") {
  CHECK(console(fill) ==
        "title\n"
        "  bundle   minilm\n"
        "  threads  2\n"
        "\n"
        "  output  max abs  golden\n"
        "  hidden  1.2e-07  -\n"
        "  pooler      0.5  b1\n"
        "    beyond atol\n"
        "\n"
        "FAILED: 1 of 2\n");
}

TEST_CASE("no colours without a terminal") {
  CHECK(console(fill).find('\033') == std::string::npos);
}

TEST_CASE("the width of columns is counted in letters, not bytes") {
  const std::string text = console(
      [](Reporter& reporter) {
        reporter.row({.cells = {{"a", "größe"}, {"b", "x"}}});
        reporter.row({.cells = {{"a", "12345"}, {"b", "y"}}});
        reporter.finish(true, "");
      },
      "");
  CHECK(text == "\n  a      b\n  größe  x\n  12345  y\n");
}

TEST_CASE("all lines of a reason are below its row, even when the row passed") {
  const std::string text = console(
      [](Reporter& reporter) {
        reporter.row({.cells = {{"a", "x"}}, .reason = "one\ntwo"});
        reporter.finish(true, "good");
      },
      "");
  CHECK(text == "\n  a\n  x\n    one\n    two\n\ngood\n");
}

TEST_CASE("nothing is written before finish") {
  std::ostringstream out;
  const auto reporter = console_reporter(out, "title");
  reporter->context({{"a", "b"}});
  reporter->row({.cells = {{"a", "x"}}});
  CHECK(out.str().empty());
}

TEST_CASE("JSON: one document with schema, context, rows and verdict") {
  std::ostringstream out;
  const auto reporter = json_reporter(out, "isthmus-run.verify");
  fill(*reporter);
  const auto document = nlohmann::json::parse(out.str());
  CHECK(document == nlohmann::json::parse(R"({
    "schema": "isthmus-run.verify",
    "schema_version": 1,
    "context": {"bundle": "minilm", "threads": "2"},
    "rows": [{"max_abs": 1.2e-07, "passed": true, "reason": ""},
             {"max_abs": 0.5, "passed": false, "reason": "beyond atol"}],
    "passed": false,
    "verdict": "FAILED: 1 of 2"})"));
  CHECK(out.str().find("\"schema\"") < out.str().find("\"rows\""));
}

TEST_CASE("facts with the same name are kept, and cells with the same column are refused") {
  std::ostringstream out;
  const auto json = json_reporter(out, "s");
  json->context({{"note", "a"}, {"note", "b"}});
  json->context({{"note", "c"}});
  const ReportRow row{.cells = {{"a", "x"}, {"a", "y"}}};
  CHECK_THROWS_AS(json->row(row), InvalidInput);
  CHECK_THROWS_AS(console_reporter(out, "")->row(row), InvalidInput);
  json->finish(true, "");
  const auto context = nlohmann::json::parse(out.str())["context"];
  CHECK(context == nlohmann::json{{"note", "a"}, {"note 2", "b"}, {"note 3", "c"}});
}

TEST_CASE("JSON: a row without an object has its cells") {
  std::ostringstream out;
  const auto reporter = json_reporter(out, "s");
  reporter->row({.cells = {{"a", "x"}}});
  reporter->finish(true, "");
  CHECK(nlohmann::json::parse(out.str())["rows"][0]["a"] == "x");
}

TEST_CASE("JSON: invalid UTF-8 is replaced") {
  std::ostringstream out;
  const auto reporter = json_reporter(out, "s");
  reporter->context({{"path", "caf\xe9"}});
  reporter->finish(true, "");
  CHECK(nlohmann::json::parse(out.str())["context"]["path"] == "caf\xEF\xBF\xBD");
}

TEST_CASE("JSON: a row that is not an object is refused") {
  std::ostringstream out;
  const auto reporter = json_reporter(out, "s");
  CHECK_THROWS_AS(reporter->row({.cells = {}, .json = "[1]"}), InvalidInput);
  CHECK_THROWS_AS(reporter->row({.cells = {}, .json = "{broken"}), InvalidInput);
}
