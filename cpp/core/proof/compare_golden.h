#pragma once

#include <string>

#include "isthmus/model.h"
#include "isthmus/parity.h"

namespace isthmus::detail {

/// Compares an output of a golden's call by the tolerance of the model's artifact. An output
/// without a tolerance must be equal.
/// @param actual  on the CPU; null or undefined when the output is absent
inline OutputParity compare_golden(const Model& model, const GoldenCall& call,
                                   const std::string& output, const Tensor* actual) {
  const auto& tolerances = model.artifact().tolerances;
  const auto& floors = model.bundle().manifest().noise_floor;
  const auto tolerance = tolerances.find(output);
  const auto floor = floors.find(output);
  const auto value = [](const Tensor* tensor) { return tensor == nullptr ? Tensor() : *tensor; };
  return compare(output, value(call.outputs.find(output)), value(actual),
                 tolerance == tolerances.end() ? Tolerance{} : tolerance->second,
                 floor == floors.end() ? nullptr : &floor->second, value(call.errors.find(output)));
}

}  // namespace isthmus::detail
