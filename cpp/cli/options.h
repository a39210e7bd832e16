#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "isthmus/options.h"
#include "isthmus/report.h"

namespace isthmus::cli {

/// The options that several commands share, as given on the command line.
struct CommonOptions {
  std::string bundle;
  bool json = false;
  LoadOptions load;
  std::string trust = "graph";
  bool allow_native = false;
  std::string optimize = "auto";
  std::string specials;  ///< empty: as in `load`
  std::string unproven = "prove";
  std::vector<std::string> op_libraries;
  std::vector<std::string> engine_options;  ///< "key=value"
  std::vector<std::string> engine_path;

  /// Returns the library's options. @throws InvalidInput for an engine option without "=".
  [[nodiscard]] LoadOptions load_options() const;
};

enum class BundleArgument { kRequired, kOptional };
void add_bundle(CLI::App& app, CommonOptions& options,
                BundleArgument bundle = BundleArgument::kRequired);
/// Adds --engine, --device, --trust and others. The values of `options.load.warmup` and
/// `options.unproven` are the defaults.
void add_load_options(CLI::App& app, CommonOptions& options);
void add_json(CLI::App& app, CommonOptions& options);

/// Returns a reporter on standard output: JSON of the schema "isthmus-run.COMMAND" with --json,
/// else tables.
std::unique_ptr<Reporter> make_reporter(const CommonOptions& options, const std::string& command,
                                        const std::string& title);

}  // namespace isthmus::cli
