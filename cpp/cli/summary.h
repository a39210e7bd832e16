#pragma once

#include <string>

#include "isthmus/report.h"
#include "isthmus/tensor.h"

namespace isthmus::cli {

/// Summarizes an output in a row: dtype, shape, first values, mean, standard deviation, extremes,
/// and the number of NaN and infinite values. `tensor` must be contiguous and on the CPU.
ReportRow summary_row(const std::string& name, const Tensor& tensor);

}  // namespace isthmus::cli
