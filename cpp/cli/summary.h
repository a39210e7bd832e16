#pragma once

#include <string>

#include "isthmus/report.h"
#include "isthmus/tensor.h"

namespace isthmus::cli {

/// One output in a row: dtype, shape, first values, mean, standard deviation, extremes, NaN count.
/// `tensor` is contiguous and on the CPU.
ReportRow summary_row(const std::string& name, const Tensor& tensor);

}  // namespace isthmus::cli
