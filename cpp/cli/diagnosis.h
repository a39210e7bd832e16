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

/// An engine library that was found, opened or not.
struct EngineDiagnosis {
  EngineInfo info;  ///< `unavailable` also says why the library itself would not open
  std::vector<std::string> formats;
  Engine* engine = nullptr;  ///< null when the library would not open
};

/// Whether one artifact can run here with the options given.
struct ArtifactDiagnosis {
  const Artifact* artifact = nullptr;
  std::string engine;   ///< that would run it
  std::string refusal;  ///< empty: it fits; else why no engine takes it, and what to do
};

/// A bundle that somebody wants to run here.
struct BundleDiagnosis {
  std::optional<Bundle> bundle;  ///< nullopt: it could not even be opened
  std::string name;
  std::uint64_t size = 0;           ///< bytes of all listed files
  std::vector<std::string> faults;  ///< empty: every file is as the manifest says
  std::vector<ArtifactDiagnosis> artifacts;
};

/// The engine that the options name, or all that are found. What cannot be opened is a finding
/// here, not an error.
std::vector<EngineDiagnosis> diagnose_engines(const LoadOptions& options);

/// Checks files and asks each engine about each artifact; runs nothing of the bundle.
BundleDiagnosis diagnose_bundle(const std::filesystem::path& path, const LoadOptions& options,
                                const std::vector<EngineDiagnosis>& engines);

}  // namespace isthmus::cli
