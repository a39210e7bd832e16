#include "cli/options.h"

#include <iostream>

#include "isthmus/error.h"

namespace isthmus::cli {
namespace {

/// Adds an option that takes one value each time it is given, so that it does not consume BUNDLE.
void add_repeatable(CLI::App& app, const std::string& name, std::vector<std::string>& values,
                    const std::string& help) {
  app.add_option(name, values, help)->allow_extra_args(false);
}

}  // namespace

LoadOptions CommonOptions::load_options() const {
  LoadOptions result = load;
  result.trust = allow_native ? Trust::kNative : parse_trust(trust);
  result.optimize = parse_optimize(optimize);
  if (!specials.empty()) result.specials = parse_specials(specials);
  result.unproven = parse_unproven(unproven);
  result.op_libraries.assign(op_libraries.begin(), op_libraries.end());
  result.engine_path.assign(engine_path.begin(), engine_path.end());
  for (const std::string& option : engine_options) {
    const auto equals = option.find('=');
    if (equals == std::string::npos || equals == 0)
      throw InvalidInput("--engine-option: expected KEY=VALUE, got \"" + option + "\"");
    result.engine_options[option.substr(0, equals)] = option.substr(equals + 1);
  }
  return result;
}

void add_bundle(CLI::App& app, CommonOptions& options, BundleArgument bundle) {
  app.add_option("BUNDLE", options.bundle, "The bundle's directory")
      ->required(bundle == BundleArgument::kRequired);
}

void add_load_options(CLI::App& app, CommonOptions& options) {
  LoadOptions& load = options.load;
  app.add_option("--engine", load.engine, "auto, or an engine's name, e.g. torchscript");
  app.add_option("--artifact", load.artifact, "One artifact by name; default: the best that fits");
  app.add_option("--device", load.device, "cpu, cuda or cuda:N; never replaced by another");
  app.add_option("--threads", load.threads, "Intra-operator threads; 0: the runtime's default");
  app.add_flag("--warmup,!--no-warmup", load.warmup,
               std::string("Call the model at load until calls are steady (default: ") +
                   (load.warmup ? "on)" : "off)"));
  app.add_flag("--mmap,!--no-mmap", load.mmap,
               "Map weights from the bundle's files instead of copying them, where the format "
               "allows it (default: on)");
  app.add_option("--optimize", options.optimize, "auto, none, freeze or inference")
      ->check(CLI::IsMember({"auto", "none", "freeze", "inference"}));
  app.add_option(
         "--unproven", options.unproven,
         "What to do with an engine that was never tried on the goldens with this version "
         "of its runtime: prove (once, and remember), refuse or allow, which also takes one "
         "that failed (default: " +
             options.unproven + ")")
      ->check(CLI::IsMember({"prove", "refuse", "allow"}));
  app.add_option("--trust", options.trust,
                 "What the bundle may do: data (run nothing), graph (pure operators; default) or "
                 "native (anything, as if it were a program)")
      ->check(CLI::IsMember({"data", "graph", "native"}));
  app.add_option("--specials", options.specials,
                 "What a call gets with values on which the engine is not proven, such as NaN: "
                 "refuse (default) or allow")
      ->check(CLI::IsMember({"refuse", "allow"}));
  app.add_flag("--allow-native", options.allow_native, "The same as --trust native");
  add_repeatable(app, "--op-library", options.op_libraries,
                 "A library of custom operators to open first; may be repeated");
  add_repeatable(app, "--engine-option", options.engine_options,
                 "KEY=VALUE, as the engine documents it; may be repeated");
  add_repeatable(app, "--engine-path", options.engine_path,
                 "A folder that is searched for engines first; may be repeated");
}

void add_json(CLI::App& app, CommonOptions& options) {
  app.add_flag("--json", options.json, "One JSON document on standard output, for machines");
}

std::unique_ptr<Reporter> make_reporter(const CommonOptions& options, const std::string& command,
                                        const std::string& title) {
  if (options.json) return json_reporter(std::cout, "isthmus-run." + command);
  return console_reporter(std::cout, title);
}

}  // namespace isthmus::cli
