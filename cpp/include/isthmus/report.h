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
  std::vector<std::pair<std::string, std::string>> cells;  ///< column and text, for people
  std::string json{};  ///< one JSON object with the same facts for machines
  bool passed = true;
  std::string reason{};  ///< printed beneath the row
};

/// Context first, then rows, then the verdict. Results are data; reporters only print them.
class ISTHMUS_API Reporter {
 public:
  virtual ~Reporter();
  /// Facts that hold for all rows: machine, versions, bundle. Name and value.
  virtual void context(const std::vector<std::pair<std::string, std::string>>& facts) = 0;
  virtual void row(const ReportRow& row) = 0;
  /// Ends the report; an empty verdict is not printed.
  virtual void finish(bool passed, const std::string& verdict) = 0;
};

/// A table on `out`, written by `finish`. `title` stands above it; columns appear in the order in
/// which rows first name them and are as wide as they need to be; columns of numbers are aligned to
/// the right. Colours only when `out` is std::cout or std::cerr on a terminal and NO_COLOR is unset
/// (https://no-color.org).
ISTHMUS_API std::unique_ptr<Reporter> console_reporter(std::ostream& out, std::string title);

/// One JSON document on `out` at the end: {"schema", "schema_version", "context", "rows", "passed",
/// "verdict"}. Rows gain "passed" and "reason". Text that is not UTF-8 is repaired; numbers that
/// JSON has no word for are null.
ISTHMUS_API std::unique_ptr<Reporter> json_reporter(std::ostream& out, std::string schema);

}  // namespace isthmus
