#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/engine.h"
#include "isthmus/options.h"

namespace isthmus::cli {

/// An installed engine library.
struct EngineDiagnosis {
  EngineInfo info;  ///< `unavailable` also tells why the library cannot be opened
  std::vector<std::string> formats;
  Engine* engine = nullptr;  ///< null when the library cannot be opened
};

/// The answer whether an artifact can run here with the given options.
struct ArtifactDiagnosis {
  const Artifact* artifact = nullptr;
  std::string engine;   ///< the engine that would run it
  std::string refusal;  ///< why no engine can run it, with the remedy; empty when it can run
};

/// The state of a bundle, and whether it can run here.
struct BundleDiagnosis {
  std::optional<Bundle> bundle;  ///< nullopt when it cannot be opened
  std::string name;
  std::uint64_t size = 0;           ///< bytes of all listed files
  std::vector<std::string> faults;  ///< files that differ from the manifest; empty without any
  std::vector<ArtifactDiagnosis> artifacts;
};

/// Examines the engine that the options name, or all that are installed. An engine that cannot be
/// opened is part of the result and not an error.
std::vector<EngineDiagnosis> diagnose_engines(const LoadOptions& options);

/// Checks the files and asks each engine about each artifact. Runs nothing of the bundle.
/// @throws InvalidInput when the options name an artifact that the bundle does not have.
BundleDiagnosis diagnose_bundle(const std::filesystem::path& path, const LoadOptions& options,
                                const std::vector<EngineDiagnosis>& engines);

}  // namespace isthmus::cli
