#pragma once

#include <CLI/CLI.hpp>

#include "cli/calls.h"
#include "cli/format.h"
#include "isthmus/batcher.h"
#include "isthmus/model.h"

namespace isthmus::cli {

/// `predict --batch` as it was typed.
struct BatchedOptions {
  bool batch = false;
  BatcherOptions limits{.max_queue = 1 << 20};  ///< a file is in memory anyway
};
void add_batched_options(CLI::App& app, BatchedOptions& options);
/// The limits alone, for a command with a --batch of its own.
void add_batch_limits(CLI::App& app, BatcherOptions& limits);

/// Runs the calls of a file as requests that have nothing to do with each other; progress goes to
/// standard error when that is a terminal.
struct Batched {
  NamedTensors outputs;  ///< "STEP/out/NAME"
  double ms = 0;
  BatcherStats stats;
  std::vector<std::string> notes;

  [[nodiscard]] Facts facts() const;
};
/// @throws InvalidInput naming the request that does not fit, ExecutionError when one fails.
Batched run_batched(const Model& model, const InputFile& file, const BatchedOptions& options);

}  // namespace isthmus::cli
