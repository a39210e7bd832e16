#pragma once

#include <iosfwd>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// One row of a report: ordered cells, `passed` for the verdict, `reason` where there is no number.
struct ReportRow {
  std::vector<std::pair<std::string, std::string>> cells;  ///< for people
  std::string json;  ///< one JSON object with the same facts for machines
  bool passed = true;
  std::string reason;
};

/// Context first, then rows, then the verdict. Results are data; reporters only print them.
class Reporter {
 public:
  virtual ~Reporter() = default;
  /// Facts that hold for all rows: machine, versions, bundle. Name and value.
  virtual void context(const std::vector<std::pair<std::string, std::string>>& facts) = 0;
  virtual void row(const ReportRow& row) = 0;
  virtual void finish(bool passed, const std::string& verdict) = 0;
};

/// A table on `out`. `title` stands above it.
ISTHMUS_API std::unique_ptr<Reporter> console_reporter(std::ostream& out, std::string title);

/// One JSON document on `out` at the end: {"schema", "schema_version", "context", "rows", "passed",
/// "verdict"}.
ISTHMUS_API std::unique_ptr<Reporter> json_reporter(std::ostream& out, std::string schema);

}  // namespace isthmus
