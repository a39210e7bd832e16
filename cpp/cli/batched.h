#pragma once

#include <CLI/CLI.hpp>

#include "cli/calls.h"
#include "cli/format.h"
#include "isthmus/batcher.h"
#include "isthmus/model.h"

namespace isthmus::cli {

/// The options of `predict --batch`.
struct BatchedOptions {
  bool batch = false;
  BatcherOptions limits{.max_queue = 1 << 20};  ///< the requests are in memory already
};
void add_batched_options(CLI::App& app, BatchedOptions& options);
/// Adds the limits only, for a command that defines --batch itself.
void add_batch_limits(CLI::App& app, BatcherOptions& limits);

/// The answers to a file of independent requests.
struct Batched {
  NamedTensors outputs;  ///< named "STEP/out/NAME"
  double ms = 0;
  BatcherStats stats;
  std::vector<std::string> notes;

  [[nodiscard]] Facts facts() const;
};
/// Runs the calls of a file as independent requests. Shows progress on standard error when that is
/// a terminal.
/// @throws InvalidInput naming the request that is wrong, ExecutionError when a request fails.
Batched run_batched(const Model& model, const InputFile& file, const BatchedOptions& options);

}  // namespace isthmus::cli
