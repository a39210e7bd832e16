#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/options.h"
#include "isthmus/parity.h"

namespace isthmus::cli {
namespace {

Json to_json(const std::string& golden, const OutputParity& one) {
  // JSON has no infinity: null stands for "no atol would pass".
  return {{"golden", golden},
          {"output", one.output},
          {"max_abs", one.max_abs},
          {"max_rel", one.max_rel},
          {"noise_units", one.noise_units},
          {"cosine", one.cosine},
          {"nan_mismatches", one.nan_mismatches},
          {"inf_mismatches", one.inf_mismatches},
          {"nans", one.nans},
          {"infs", one.infs},
          {"argmax_agreement", one.argmax_agreement},
          {"atol", one.atol},
          {"rtol", one.rtol},
          {"passing_atol", std::isfinite(one.passing_atol) ? Json(one.passing_atol) : Json()},
          {"elements", one.elements}};
}

std::vector<std::pair<std::string, std::string>> to_cells(const std::string& golden,
                                                          const OutputParity& one) {
  return {{"output", one.output},
          {"verdict", one.passed ? "passed" : "FAILED"},
          {"max abs", number(one.max_abs)},
          {"max rel", number(one.max_rel)},
          {"noise", one.noise_units > 0 ? number(one.noise_units) + " x" : "-"},
          {"cosine", number(one.cosine, 9)},
          {"argmax", number(100 * one.argmax_agreement, 4) + " %"},
          {"NaN/Inf", std::to_string(one.nans) + "/" + std::to_string(one.infs)},
          {"atol", number(one.atol)},
          {"rtol", number(one.rtol)},
          {"worst golden", golden}};
}

ReportRow error_row(const GoldenParity& golden) {
  return {.cells = {{"output", "(all)"}, {"verdict", "FAILED"}, {"worst golden", golden.golden}},
          .json = dump({{"golden", golden.golden}, {"output", nullptr}, {"error", golden.error}}),
          .passed = false,
          .reason = golden.error};
}

// For machines: every output of every golden.
std::vector<ReportRow> all_rows(const ParityResult& result) {
  std::vector<ReportRow> rows;
  for (const GoldenParity& golden : result.goldens) {
    for (const OutputParity& one : golden.outputs)
      rows.push_back({.cells = to_cells(golden.golden, one),
                      .json = dump(to_json(golden.golden, one)),
                      .passed = one.passed,
                      .reason = one.reason});
    if (!golden.error.empty()) rows.push_back(error_row(golden));
  }
  return rows;
}

// For people: the worst golden of each output, and the goldens that could not be run.
std::vector<ReportRow> worst_rows(const ParityResult& result) {
  struct Worst {
    const OutputParity* parity;
    const std::string* golden;
  };
  std::vector<Worst> outputs;
  std::vector<ReportRow> errors;
  for (const GoldenParity& golden : result.goldens) {
    for (const OutputParity& one : golden.outputs) {
      const auto known = std::find_if(outputs.begin(), outputs.end(), [&](const Worst& worst) {
        return worst.parity->output == one.output;
      });
      if (known == outputs.end())
        outputs.push_back({&one, &golden.golden});
      else if (&worse(*known->parity, one) == &one)
        *known = {&one, &golden.golden};
    }
    if (!golden.error.empty()) errors.push_back(error_row(golden));
  }
  std::vector<ReportRow> rows;
  for (const Worst& worst : outputs)
    rows.push_back({.cells = to_cells(*worst.golden, *worst.parity),
                    .json = "",
                    .passed = worst.parity->passed,
                    .reason = worst.parity->reason});
  rows.insert(rows.end(), errors.begin(), errors.end());
  return rows;
}

std::string verdict_of(const ParityResult& result) {
  if (!result.error.empty()) return "FAILED: " + result.error;
  const auto good = std::count_if(result.goldens.begin(), result.goldens.end(),
                                  [](const GoldenParity& one) { return one.passed(); });
  const std::string where = " on " + result.device + " with " + result.runtime;
  if (result.passed()) return "PASSED: " + count(result.goldens.size(), "golden") + where;
  return "FAILED: " + std::to_string(result.goldens.size() - static_cast<std::size_t>(good)) +
         " of " + count(result.goldens.size(), "golden") + where;
}

// Only for a person who waits at a terminal.
void show_progress(const char* golden, void*) {
  std::cerr << "\r\033[Kverifying " << golden << std::flush;
}

int run(const CommonOptions& options) {
  const LoadOptions load = options.load_options();
  const Model model = Model::load(options.bundle, load);
  const bool progress = !options.json && isatty(STDERR_FILENO) == 1;
  const ParityResult result = verify(model, progress ? show_progress : nullptr);
  if (progress) std::cerr << "\r\033[K" << std::flush;

  const auto reporter = make_reporter(options, "verify", "isthmus-run verify");
  Facts facts = context_of(model, load);
  add_notes(facts, model.load_report().notes);
  reporter->context(facts);
  for (const ReportRow& row : options.json ? all_rows(result) : worst_rows(result))
    reporter->row(row);
  reporter->finish(result.passed(), verdict_of(result));
  return result.passed() ? kExitGood : kExitParity;
}

}  // namespace

void add_verify(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "verify", "Runs every golden at least twice and compares with the eager module's answers");
  const auto options = std::make_shared<CommonOptions>();
  // The goldens' own first and second runs are what a warm-up would hide.
  options->load.warmup = false;
  add_bundle(*command, *options);
  add_load_options(*command, *options);
  add_json(*command, *options);
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace isthmus::cli
