#include <algorithm>
#include <iostream>
#include <optional>

#include "cli/bundle_facts.h"
#include "cli/commands.h"
#include "cli/diagnosis.h"
#include "cli/format.h"
#include "cli/options.h"
#include "isthmus/machine.h"

namespace isthmus::cli {
namespace {

Facts machine_facts() {
  const Machine machine = this_machine();
  const auto or_none = [](const std::vector<std::string>& words) {
    return words.empty() ? std::string("none") : join(words);
  };
  Facts facts{
      {"isthmus", version() + " (" + build_info() + ")"},
      {"system", machine.system},
      {"processor", machine.cpu + ", " + count(static_cast<std::size_t>(machine.cores), "core")},
      {"instruction sets", or_none(machine.isa)},
      {"memory", bytes(static_cast<std::uint64_t>(machine.memory_bytes))},
      {"GPUs", or_none(machine.gpus)},
      {"NVIDIA driver", machine.gpu_driver.empty() ? "none" : machine.gpu_driver},
      {"OpenMP runtimes", or_none(machine.openmp)}};
  add_notes(facts, timing_warnings(machine), "warning");
  return facts;
}

ReportRow row_of(const EngineDiagnosis& engine) {
  const EngineInfo& info = engine.info;
  const bool ready = info.unavailable.empty();
  return {.cells = {{"engine", info.name},
                    {"state", ready ? "ready" : "not available"},
                    {"formats", engine.formats.empty() ? "-" : join(engine.formats)},
                    {"runtime", info.runtime.empty() ? "-" : info.runtime},
                    {"devices", info.devices.empty() ? "-" : join(info.devices)},
                    {"found in", info.runtime_path.empty() ? "-" : info.runtime_path}},
          .json = dump({{"kind", "engine"},
                        {"engine", info.name},
                        {"ready", ready},
                        {"formats", engine.formats},
                        {"runtime", info.runtime},
                        {"runtime_path", info.runtime_path},
                        {"devices", info.devices},
                        {"details", info.details}}),
          .passed = ready,
          .reason = ready ? join(info.details, "\n") : info.unavailable};
}

ReportRow row_of(const ArtifactDiagnosis& fit) {
  const Artifact& artifact = *fit.artifact;
  const std::vector<std::string> libraries = library_names(artifact);
  const bool fits = fit.refusal.empty();
  return {.cells = {{"artifact", artifact.name},
                    {"verdict", fits ? "fits" : "does not fit"},
                    {"engine", fits ? fit.engine : "-"},
                    {"format", artifact.format},
                    {"devices", join(artifact.devices)},
                    {"precision", artifact.precision},
                    {"trust", artifact.trust},
                    {"made with", pairs(artifact.requires_versions)},
                    {"operator libraries", libraries.empty() ? "-" : join(libraries)}},
          .json = dump({{"kind", "artifact"},
                        {"artifact", artifact.name},
                        {"fits", fits},
                        {"engine", fit.engine},
                        {"format", artifact.format},
                        {"devices", artifact.devices},
                        {"precision", artifact.precision},
                        {"trust", artifact.trust},
                        {"requires", artifact.requires_versions},
                        {"op_libraries", libraries}}),
          .passed = fits,
          .reason = fit.refusal};
}

ReportRow row_of(const BundleDiagnosis& bundle) {
  const bool whole = bundle.faults.empty();
  return {.cells = {{"bundle", bundle.name},
                    {"files", whole ? "as the manifest says" : "damaged"},
                    {"size", bytes(bundle.size)}},
          .json = dump({{"kind", "bundle"},
                        {"bundle", bundle.name},
                        {"size", bundle.size},
                        {"faults", bundle.faults}}),
          .passed = whole,
          .reason = join(bundle.faults, "\n")};
}

struct Verdict {
  int code = kExitGood;
  std::string text;
};

Verdict judge(const std::vector<EngineDiagnosis>& engines,
              const std::optional<BundleDiagnosis>& bundle, const std::string& device) {
  if (!bundle) {
    const auto ready = std::count_if(
        engines.begin(), engines.end(),
        [](const EngineDiagnosis& engine) { return engine.info.unavailable.empty(); });
    if (engines.empty())
      return {
          kExitEngine,
          "no engine is installed here: `pip install .` in isthmus's sources builds them; a copied "
          "isthmus-run needs libisthmus_engine_*.so beside it (`isthmus deploy folder` copies "
          "them), or "
          "their folder in ISTHMUS_ENGINE_PATH"};
    if (ready == 0)
      return {kExitEngine,
              "no engine can run here: each says above what it lacks, and how to get it"};
    return {kExitGood, count(static_cast<std::size_t>(ready), "engine") + " ready"};
  }
  if (!bundle->faults.empty()) return {kExitBundle, "the bundle is damaged"};
  const auto fit =
      std::find_if(bundle->artifacts.begin(), bundle->artifacts.end(),
                   [](const ArtifactDiagnosis& diagnosis) { return diagnosis.refusal.empty(); });
  if (fit == bundle->artifacts.end())
    return {kExitEngine, "the bundle does not fit here: nothing in it can run on " + device};
  return {kExitGood, "the bundle fits here: " + fit->artifact->name + " on " + device + " with " +
                         fit->engine};
}

/// Prints a table for each kind of row on the console, and one list of all rows in JSON.
void print(const CommonOptions& options, const std::vector<EngineDiagnosis>& engines,
           const std::optional<BundleDiagnosis>& bundle, const Verdict& verdict) {
  auto reporter = make_reporter(options, "doctor", "isthmus-run doctor");
  reporter->context(machine_facts());
  const auto next_table = [&] {
    if (options.json) return;
    reporter->finish(true, "");
    reporter = console_reporter(std::cout, "");
  };
  for (const EngineDiagnosis& engine : engines) reporter->row(row_of(engine));
  if (bundle) {
    next_table();
    reporter->row(row_of(*bundle));
    next_table();
    for (const ArtifactDiagnosis& artifact : bundle->artifacts) reporter->row(row_of(artifact));
  }
  reporter->finish(verdict.code == kExitGood, verdict.text);
}

int run(const CommonOptions& options) {
  const LoadOptions load = options.load_options();
  const Device device = parse_device(load.device);
  const std::vector<EngineDiagnosis> engines = diagnose_engines(load);
  std::optional<BundleDiagnosis> bundle;
  if (!options.bundle.empty()) bundle = diagnose_bundle(options.bundle, load, engines);
  const Verdict verdict = judge(engines, bundle, to_string(device));
  print(options, engines, bundle, verdict);
  return verdict.code;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "doctor", "Describes this machine, and tells whether a bundle can run on it");
  const auto options = std::make_shared<CommonOptions>();
  add_bundle(*command, *options, BundleArgument::kOptional);
  add_load_options(*command, *options);
  add_json(*command, *options);
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace isthmus::cli
