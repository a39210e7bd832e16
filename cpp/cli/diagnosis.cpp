#include "cli/diagnosis.h"

#include <algorithm>

#include "cli/bundle_facts.h"
#include "cli/format.h"
#include "isthmus/error.h"

namespace isthmus::cli {
namespace {

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool trusted(const Artifact& artifact, Trust trust) {
  if (trust == Trust::kNative) return true;
  return artifact.trust == "data" || (artifact.trust == "graph" && trust == Trust::kGraph);
}

/// Returns why no engine can run the artifact with these options; empty when an engine may.
std::string refusal_of(const Artifact& artifact, const LoadOptions& options) {
  const std::string device(name(parse_device(options.device).type));
  if (!contains(artifact.devices, device))
    return "it may run on " + join(artifact.devices) + ", not on " + device +
           "; export the model for " + device;
  if (!trusted(artifact, options.trust))
    return "it needs trust \"" + artifact.trust +
           "\"; if you trust where the bundle came from, add --trust " + artifact.trust;
  if (!artifact.op_libraries.empty() && op_libraries_of(artifact, options).empty()) {
    return "it needs a library of operators: " + join(library_names(artifact)) +
           "; name its file with --op-library";
  }
  return "";
}

ArtifactDiagnosis diagnose(const Artifact& artifact, const LoadOptions& options,
                           const std::vector<EngineDiagnosis>& engines) {
  ArtifactDiagnosis result{.artifact = &artifact, .engine = "", .refusal = ""};
  result.refusal = refusal_of(artifact, options);
  if (!result.refusal.empty()) return result;
  std::vector<std::string> refusals;
  for (const EngineDiagnosis& candidate : engines) {
    const EngineInfo& info = candidate.info;
    if (candidate.engine != nullptr && !contains(candidate.formats, artifact.format)) continue;
    const std::optional<std::string> refusal =
        info.unavailable.empty() ? candidate.engine->can_run(artifact, options) : info.unavailable;
    if (!refusal) {
      result.engine = info.name;
      return result;
    }
    refusals.push_back(info.name + ": " + *refusal);
  }
  result.refusal = refusals.empty() ? "no engine here runs the format \"" + artifact.format +
                                          "\"; install one, or name its folder with --engine-path"
                                    : join(refusals, "\n");
  return result;
}

}  // namespace

std::vector<EngineDiagnosis> diagnose_engines(const LoadOptions& options) {
  const std::vector<std::string> names = options.engine == "auto"
                                             ? engine_names(options.engine_path)
                                             : std::vector<std::string>{options.engine};
  std::vector<EngineDiagnosis> engines;
  for (const std::string& name : names) {
    EngineDiagnosis result;
    try {
      result.engine = &open_engine(name, options.engine_path);
      result.formats = result.engine->formats();
      result.info = result.engine->info();
    } catch (const Error& error) {
      result.info.unavailable = error.what();
    }
    result.info.name = name;
    engines.push_back(std::move(result));
  }
  return engines;
}

BundleDiagnosis diagnose_bundle(const std::filesystem::path& path, const LoadOptions& options,
                                const std::vector<EngineDiagnosis>& engines) {
  BundleDiagnosis result;
  result.name = path.string();
  try {
    result.bundle = Bundle::open(path);
  } catch (const BundleError& error) {
    result.faults = {error.what()};
    return result;
  }
  const Manifest& manifest = result.bundle->manifest();
  result.name = manifest.name;
  result.size = total_size(manifest);
  result.faults = result.bundle->check_files();
  for (const Artifact& artifact : manifest.artifacts)
    if (options.artifact.empty() || options.artifact == artifact.name)
      result.artifacts.push_back(diagnose(artifact, options, engines));
  if (result.artifacts.empty() && !options.artifact.empty())
    throw InvalidInput("the bundle has no artifact \"" + options.artifact +
                       "\"; `isthmus-run info` lists those it has");
  return result;
}

}  // namespace isthmus::cli
