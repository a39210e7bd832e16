#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/export.h"
#include "isthmus/model.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// One output of an engine against its reference. Computed in float64. NaN equals NaN and
/// infinities equal themselves at the same place; anywhere else they fail.
struct OutputParity {
  std::string output;
  bool passed = false;
  std::string reason;      ///< why it failed, or why there is no number; empty when passed
  double max_abs = 0;      ///< largest |actual - reference| over finite elements
  double max_rel = 0;      ///< largest |actual - reference| / |reference| where it is not 0
  double noise_units = 0;  ///< max_abs in units of the noise floor's max_abs; 0 without one
  double cosine = 1;       ///< cosine similarity of the flattened values
  std::int64_t nan_mismatches = 0;  ///< elements NaN on one side only
  std::int64_t inf_mismatches = 0;  ///< elements infinite, or of the other sign, on one side only
  std::int64_t nans = 0;            ///< NaN elements of the engine's output
  std::int64_t infs = 0;            ///< infinite elements of the engine's output
  double argmax_agreement = 1;      ///< share of rows (last axis) with the same argmax
  double passing_atol = 0;          ///< the atol that would pass with the given rtol
  std::int64_t elements = 0;
  explicit operator bool() const noexcept { return passed; }
};

/// All outputs of one golden.
struct GoldenParity {
  std::string golden;
  std::vector<OutputParity> outputs;  ///< for a sequence: the worst call of each output
  std::string error;                  ///< not empty: the engine threw
  [[nodiscard]] bool passed() const noexcept;
};

/// The verdict on one way of running the bundle. Truthy when everything passed.
struct ParityResult {
  std::string engine;
  std::string runtime;
  std::string device;
  std::string artifact;
  std::vector<GoldenParity> goldens;
  std::string error;  ///< not empty: it could not be run at all
  [[nodiscard]] bool passed() const noexcept;
  explicit operator bool() const noexcept { return passed(); }
};

/// Compares one output. Integers and booleans must be equal; floats pass within the tolerance. A
/// differing dtype or shape, or one side undefined, fails with its reason.
ISTHMUS_API OutputParity compare(std::string_view output, const Tensor& reference,
                                 const Tensor& actual, const Tolerance& tolerance,
                                 const NoiseFloor* noise = nullptr);

/// Runs every golden of the model's bundle, a fresh session each, and compares with the artifact's
/// tolerances. `progress`, when set, is called with each golden's name before it runs.
ISTHMUS_API ParityResult verify(const Model& model,
                                void (*progress)(const char* golden, void* context) = nullptr,
                                void* context = nullptr);

}  // namespace isthmus
