#pragma once

#include <algorithm>

#include "core/text.h"
#include "isthmus/error.h"
#include "isthmus/report.h"

namespace isthmus::detail {

/// @throws InvalidInput when two cells of the row have the same column.
inline void require_distinct_columns(const ReportRow& row) {
  for (auto cell = row.cells.begin(); cell != row.cells.end(); ++cell)
    if (std::any_of(row.cells.begin(), cell,
                    [&](const auto& earlier) { return earlier.first == cell->first; }))
      throw InvalidInput("ReportRow::cells: expected distinct columns, got " +
                         in_quotes(cell->first) + " twice");
}

}  // namespace isthmus::detail
