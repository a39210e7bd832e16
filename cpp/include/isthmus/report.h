#pragma once

#include <iosfwd>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// One row of a report.
struct ReportRow {
  std::vector<std::pair<std::string, std::string>>
      cells;           ///< column and text; columns are distinct
  std::string json{};  ///< a JSON object with the same facts; empty: made from the cells
  bool passed = true;
  std::string reason{};  ///< why it did not pass, or a remark; printed below the row
};

/// Prints results: the context first, then rows, then the verdict. The stream must outlive it.
class ISTHMUS_API Reporter {
 public:
  virtual ~Reporter();
  /// Adds facts (name and value) that apply to all rows, such as the machine, versions and the
  /// bundle.
  virtual void context(const std::vector<std::pair<std::string, std::string>>& facts) = 0;
  /// Adds a row. @throws InvalidInput when a column is named twice or `json` is not an object.
  virtual void row(const ReportRow& row) = 0;
  /// Writes the report. An empty verdict is not printed.
  virtual void finish(bool passed, const std::string& verdict) = 0;
};

/// Returns a reporter that writes a table below `title`. Columns are in the order in which rows
/// first name them; columns of numbers are aligned to the right. There are colours only when `out`
/// is std::cout or std::cerr on a terminal and NO_COLOR is not set (https://no-color.org).
ISTHMUS_API std::unique_ptr<Reporter> console_reporter(std::ostream& out, std::string title);

/// Returns a reporter that writes one JSON document: {"schema", "schema_version", "context",
/// "rows", "passed", "verdict"}. "passed" and "reason" are added to rows. Facts with the same name
/// are numbered: "note", "note 2". Invalid UTF-8 is replaced; NaN and infinite numbers are null.
ISTHMUS_API std::unique_ptr<Reporter> json_reporter(std::ostream& out, std::string schema);

}  // namespace isthmus
