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

/// One output of an engine against its reference. Computed in float64; the difference of complex
/// numbers is the modulus. NaN equals NaN and infinities equal themselves at the same place;
/// anywhere else they fail.
///
/// Where eager in float64 is known it is the truth: each statistic of the output's error to it may
/// be a stated multiple of the same statistic of eager's own error (and never has to be less than
/// that multiple of a unit in the last place). Otherwise the tolerance is atol and rtol.
struct OutputParity {
  std::string output;
  bool passed = false;
  std::string reason;  ///< why it failed, or why there is no number; empty when passed
  double max_abs = 0;  ///< largest |actual - reference| where both are finite
  double max_rel = 0;  ///< largest |actual - reference| / |reference| where it is not 0
  /// The error in units of eager's own: RMS to the truth where that is known; else max_abs over
  /// the noise floor's; 0 without one.
  double noise_units = 0;
  double cosine = 1;                ///< cosine similarity of the flattened finite values
  std::int64_t nan_mismatches = 0;  ///< elements NaN on one side only
  std::int64_t inf_mismatches = 0;  ///< elements infinite, or of the other sign, on one side only
  std::int64_t nans = 0;            ///< NaN elements of the engine's output
  std::int64_t infs = 0;            ///< infinite elements of the engine's output
  double argmax_agreement = 1;      ///< share of rows (last axis) with the same argmax
  /// Share of rows whose five largest (fewer in short rows) are the reference's, ties within twice
  /// the allowed largest error being equal.
  double topk_agreement = 1;
  double passing_atol = 0;  ///< the atol that would pass with this rtol; infinite: none would
  double atol = 0;          ///< the tolerance it was judged by
  double rtol = 0;
  std::int64_t elements = 0;
  bool to_truth = false;     ///< judged by its error to float64, and what follows is set
  ErrorStatistics errors{};  ///< of the output, to the truth
  ErrorStatistics own{};  ///< of eager in the golden's precision, at least a unit in the last place
  ErrorStatistics allowed{};  ///< infinite for a statistic that is not judged
  std::string statistic{};    ///< the one that is nearest to failing
  /// That statistic's error as a multiple of eager's own: the multiple that would pass.
  double multiple = 0;
  explicit operator bool() const noexcept { return passed; }

  /// The tolerance it needs as a share of the one it was given: above 1 it failed.
  [[nodiscard]] ISTHMUS_API double strain() const noexcept;
};

/// All outputs of one golden.
struct GoldenParity {
  std::string golden;
  std::vector<OutputParity> outputs;  ///< the worst call of each output, over all calls and runs
  std::string error;                  ///< not empty: the engine threw
  [[nodiscard]] ISTHMUS_API bool passed() const noexcept;
};

/// The verdict on one way of running the bundle. Truthy when everything passed.
struct ParityResult {
  std::string engine;
  std::string runtime;
  std::string device;
  std::string artifact;
  std::vector<GoldenParity> goldens;
  std::string error;  ///< not empty: it could not be run at all, or there is nothing to compare
  /// False also when there is no golden: nothing compared proves nothing.
  [[nodiscard]] ISTHMUS_API bool passed() const noexcept;
  explicit operator bool() const noexcept { return passed(); }
};

/// Compares one output. Integers and booleans must be equal; floats pass within the tolerance. A
/// differing dtype or shape, or one side undefined, fails with its reason.
/// @param own_error  reference minus truth (eager in float64), of the reference's shape; undefined
///                   where it is not known
/// @throws InvalidInput for a tensor that is not on the CPU.
ISTHMUS_API OutputParity compare(std::string_view output, const Tensor& reference,
                                 const Tensor& actual, const Tolerance& tolerance,
                                 const NoiseFloor* noise = nullptr, const Tensor& own_error = {});

/// The result that is nearer to failing, failures first: how the calls of one output are summed up.
ISTHMUS_API const OutputParity& worse(const OutputParity& a, const OutputParity& b) noexcept;

/// Runs all goldens of the model's bundle at least twice over, so that the second call of a shape,
/// where a runtime swaps in its optimised code, is judged too; compares with the artifact's
/// tolerances. A stateful model gets a fresh session for each golden and run. What an engine throws
/// is recorded with its golden. `progress`, when set, is called with each golden's name before its
/// first run.
/// @throws BundleError when a golden's file is damaged.
ISTHMUS_API ParityResult verify(const Model& model,
                                void (*progress)(const char* golden, void* context) = nullptr,
                                void* context = nullptr);

}  // namespace isthmus
