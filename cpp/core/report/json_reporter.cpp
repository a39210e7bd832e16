#include <nlohmann/json.hpp>
#include <ostream>

#include "core/report/report_row.h"
#include "isthmus/error.h"
#include "isthmus/report.h"

namespace isthmus {
namespace {

using Json = nlohmann::ordered_json;

class JsonReporter final : public Reporter {
 public:
  JsonReporter(std::ostream& out, const std::string& schema) : out_(out) {
    document_["schema"] = schema;
    document_["schema_version"] = 1;
    document_["context"] = Json::object();
    document_["rows"] = Json::array();
  }

  void context(const std::vector<std::pair<std::string, std::string>>& facts) override {
    Json& context = document_["context"];
    for (const auto& [name, value] : facts) {
      std::string key = name;
      for (int i = 2; context.contains(key); ++i) key = name + " " + std::to_string(i);
      context[key] = value;
    }
  }

  void row(const ReportRow& row) override {
    detail::require_distinct_columns(row);
    Json object = Json::object();
    if (row.json.empty()) {
      for (const auto& [name, text] : row.cells) object[name] = text;
    } else {
      object = Json::parse(row.json, nullptr, /*allow_exceptions=*/false);
      if (!object.is_object())
        throw InvalidInput("ReportRow::json: expected one JSON object, got: " + row.json);
    }
    object["passed"] = row.passed;
    object["reason"] = row.reason;
    document_["rows"].push_back(std::move(object));
  }

  void finish(bool passed, const std::string& verdict) override {
    document_["passed"] = passed;
    document_["verdict"] = verdict;
    out_ << document_.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
    out_.flush();
  }

 private:
  std::ostream& out_;
  Json document_;
};

}  // namespace

std::unique_ptr<Reporter> json_reporter(std::ostream& out, std::string schema) {
  return std::make_unique<JsonReporter>(out, schema);
}

}  // namespace isthmus
