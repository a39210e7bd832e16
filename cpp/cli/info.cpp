#include <iostream>
#include <map>

#include "cli/bundle_facts.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/options.h"
#include "isthmus/bundle.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"
#include "isthmus/model.h"
#include "isthmus/verify.h"

namespace isthmus::cli {
namespace {

Json to_json(const EngineVerdict& verdict) {
  const EngineProof& proof = verdict.proof;
  return {{"engine", proof.engine},   {"device", proof.device},   {"runtime", proof.runtime},
          {"status", verdict.status}, {"origin", verdict.origin}, {"reason", proof.reason},
          {"limits", proof.limits()}};
}

Json to_json(const Artifact& artifact, const std::vector<EngineVerdict>& verdicts) {
  Json engines = Json::array();
  for (const EngineVerdict& verdict : verdicts)
    if (verdict.artifact == artifact.name) engines.push_back(to_json(verdict));
  Json tolerances = Json::object();
  for (const auto& [output, tolerance] : artifact.tolerances)
    tolerances[output] = {{"atol", tolerance.atol}, {"rtol", tolerance.rtol}};
  return {{"artifact", artifact.name},
          {"format", artifact.format},
          {"device", artifact.device},
          {"devices", artifact.devices},
          {"precision", artifact.precision},
          {"strategy", artifact.strategy},
          {"trust", artifact.trust},
          {"size", total_size(artifact.files)},
          {"requires", artifact.requires_versions},
          {"op_libraries", library_names(artifact)},
          {"operators", artifact.operators},
          {"state", artifact.state},
          {"tolerances", std::move(tolerances)},
          {"engines", std::move(engines)}};
}

ReportRow row_of(const Artifact& artifact, const std::vector<EngineVerdict>& verdicts) {
  return {.cells = {{"artifact", artifact.name},
                    {"format", artifact.format},
                    {"made on", artifact.device},
                    {"runs on", join(artifact.devices)},
                    {"precision", artifact.precision},
                    {"strategy", artifact.strategy.empty() ? "-" : artifact.strategy},
                    {"trust", artifact.trust},
                    {"size", bytes(total_size(artifact.files))},
                    {"requires", pairs(artifact.requires_versions)},
                    {"operator libraries",
                     artifact.op_libraries.empty() ? "-" : join(library_names(artifact))}},
          .json = dump(to_json(artifact, verdicts))};
}

/// Tells which artifact and engine `engine="auto"` chooses on the CPU here, and why.
std::string automatic_choice(const Bundle& bundle) {
  try {
    return Model::describe_selection(bundle);
  } catch (const Error& error) {
    return std::string("nothing: ") + error.what();
  }
}

Facts facts_of(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  Facts facts{{"bundle", manifest.name},
              {"path", bundle.root().string()},
              {"created", manifest.created},
              {"producer", pairs(manifest.producer)},
              {"source", pairs(manifest.source)},
              {"stateful", manifest.stateful ? "yes" : "no"},
              {"size", bytes(total_size(manifest))}};
  for (const Signature& method : manifest.methods)
    facts.emplace_back("method " + method.method, method.describe());
  std::map<std::string, DimRange, std::less<>> dims;
  for (const Signature& method : manifest.methods)
    dims.insert(method.dims.begin(), method.dims.end());
  for (const auto& [name, range] : dims) {
    facts.emplace_back("dim " + name, range.text());
  }
  for (const Artifact& artifact : manifest.artifacts)
    if (!artifact.sizes.empty())
      facts.emplace_back("sizes of " + artifact.name, artifact.sizes_text() + " only");
  for (const auto& [output, floor] : manifest.noise_floor)
    facts.emplace_back("noise floor " + output, number(floor.max_abs) + " (" + floor.method + ")");
  for (const Golden& golden : manifest.goldens)
    facts.emplace_back("golden " + golden.name, count(golden.steps.size(), "call") + ", " +
                                                    pairs(golden.dims) + ", " +
                                                    bytes(golden.file.size));
  facts.emplace_back("isthmus-run", version());
  facts.emplace_back("engine=auto", automatic_choice(bundle));
  return facts;
}

// Tolerances have a table of their own: one artifact has one for each output.
void print_tolerances(const Manifest& manifest) {
  const auto reporter = console_reporter(std::cout, "");
  for (const Artifact& artifact : manifest.artifacts)
    for (const auto& [output, tolerance] : artifact.tolerances)
      reporter->row({.cells = {{"artifact", artifact.name},
                               {"output", output},
                               {"atol", number(tolerance.atol)},
                               {"rtol", number(tolerance.rtol)}},
                     .json = ""});
  reporter->finish(true, "");
}

// The verdicts have a table of their own: one artifact has one for each engine.
void print_verdicts(const std::vector<EngineVerdict>& verdicts) {
  const auto reporter = console_reporter(std::cout, "");
  const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text; };
  for (const EngineVerdict& verdict : verdicts)
    reporter->row({.cells = {{"artifact", verdict.artifact},
                             {"engine", verdict.proof.engine},
                             {"on", verdict.proof.device},
                             {"goldens", verdict.status},
                             {"runtime", or_dash(verdict.proof.runtime)},
                             {"tried", or_dash(verdict.origin)},
                             {"limits", or_dash(join(verdict.proof.limits(), "; "))}},
                   .json = "",
                   .passed = verdict.status != "failed",
                   .reason = verdict.proof.reason});
  reporter->finish(true, "");
}

struct InfoOptions {
  CommonOptions common;
  bool check = false;
};

int run(const InfoOptions& options) {
  const Bundle bundle = Bundle::open(options.common.bundle);
  const std::vector<std::string> faults =
      options.check ? bundle.check_files() : std::vector<std::string>{};
  const auto reporter = make_reporter(options.common, "info", "isthmus-run info");
  reporter->context(facts_of(bundle));
  const std::vector<EngineVerdict> verdicts = engine_verdicts(bundle);
  for (const Artifact& artifact : bundle.manifest().artifacts)
    reporter->row(row_of(artifact, verdicts));
  std::string verdict = "files not checked; --check compares their sizes and SHA-256";
  if (options.check)
    verdict =
        faults.empty() ? "all files are as the manifest says" : "damaged: " + join(faults, "; ");
  if (!options.common.json) {
    reporter->finish(true, "");
    print_verdicts(verdicts);
    print_tolerances(bundle.manifest());
    console_reporter(std::cout, "")->finish(faults.empty(), verdict);
  } else {
    reporter->finish(faults.empty(), verdict);
  }
  return faults.empty() ? kExitGood : kExitBundle;
}

}  // namespace

void add_info(CLI::App& app, Action& action) {
  auto* command =
      app.add_subcommand("info", "Lists the content of a bundle and the engine that would run it");
  const auto options = std::make_shared<InfoOptions>();
  add_bundle(*command, options->common);
  command->add_flag("--check", options->check, "Also compare every file's size and SHA-256");
  add_json(*command, options->common);
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace isthmus::cli
