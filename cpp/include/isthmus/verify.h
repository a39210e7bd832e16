#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/export.h"
#include "isthmus/model.h"
#include "isthmus/parity.h"

namespace isthmus {

/// Runs all goldens of the model's bundle and compares the outputs by the tolerances of the model's
/// artifact. Each golden runs at least twice, because from the second call of a shape on a runtime
/// may use its optimised code, and a bundle of few calls runs until there are four calls. Each run
/// of a golden has a session of its own. An error that an engine throws becomes
/// `GoldenParity::error`.
/// @param progress  called with the name of each golden before its first run, on the calling thread
/// @param options  of each call of the model
/// @throws BundleError when the file of a golden is missing or damaged.
ISTHMUS_API ParityResult verify(const Model& model,
                                const std::function<void(std::string_view golden)>& progress = {},
                                const RunOptions& options = {});

/// Keeps the result of `verify` in proofs.json beside the manifest, where the loads on this machine
/// look first. Nothing is written when it is known already. Returns why it could not be written, or
/// an empty string.
std::string remember(const Model& model, const ParityResult& result);

/// Runs some of the bundle's goldens of special values (`Manifest::specials`). A call has no time
/// limit, and may never end. Load the model with `Specials::kAllow`, because values that it refuses
/// count as different.
/// @param next  returns the number of the golden to run, or nullopt at the end
/// @param done  called after each golden with how the engine differs from it; empty when it does
/// not
/// @throws InvalidInput for a number that no golden has.
ISTHMUS_API void try_specials(
    const Model& model, const std::function<std::optional<std::size_t>()>& next,
    const std::function<void(const Golden& golden, const std::string& difference)>& done);

/// Runs the bundle's goldens of special values. Returns the values on which the engine differs from
/// the model, with those that the export found.
ISTHMUS_API EngineProof prove_specials(const Model& model);

/// What is known about an engine on an artifact.
struct EngineVerdict {
  std::string artifact;
  std::string status;  ///< "passed", "failed", "not proven" or "not available"
  std::string origin;  ///< where the verdict was reached: "at export", "on this machine, ..."
  EngineProof proof;   ///< engine, device and runtime; what it was proven on; why it did not pass
};

/// Returns a verdict for each artifact on each engine that is installed and runs its format on
/// `device`, then those of the export about other engines, runtimes and devices. Opens the
/// runtimes, and runs nothing.
/// @param device  "cpu" or "cuda"
/// @throws InvalidInput for an unknown device or a folder of `engine_path` that does not exist.
ISTHMUS_API std::vector<EngineVerdict> engine_verdicts(
    const Bundle& bundle, std::string_view device = "cpu",
    std::span<const std::filesystem::path> engine_path = {});

}  // namespace isthmus
