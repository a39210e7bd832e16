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

// JSON has no infinity: null stands for it.
Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json to_json(const ErrorStatistics& statistics) {
  Json result = Json::object();
  for (std::size_t at = 0; at < kStatistics; ++at)
    result[std::string(kStatisticNames[at])] = number_or_null(statistics.values[at]);
  return result;
}

Json to_json(const std::string& golden, const OutputParity& one) {
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
          {"topk_agreement", one.topk_agreement},
          {"atol", one.atol},
          {"rtol", one.rtol},
          {"passing_atol", number_or_null(one.passing_atol)},
          {"elements", one.elements},
          {"to_truth", one.to_truth},
          {"errors", to_json(one.errors)},
          {"own", to_json(one.own)},
          {"allowed", to_json(one.allowed)},
          {"statistic", one.statistic},
          {"multiple", number_or_null(one.multiple)},
          {"strain", number_or_null(one.strain())}};
}

std::vector<std::pair<std::string, std::string>> to_cells(const std::string& golden,
                                                          const OutputParity& one) {
  return {{"output", one.output},
          {"verdict", one.passed ? "passed" : "FAILED"},
          {"max abs", number(one.max_abs)},
          {"max rel", number(one.max_rel)},
          {"x eager's own", one.noise_units > 0 ? number(one.noise_units) : "-"},
          {"of allowed", number(100 * one.strain(), 3) + " %"},
          {"nearest", one.to_truth ? one.statistic : "atol"},
          {"cosine", number(one.cosine, 9)},
          {"top 1/5", number(100 * one.argmax_agreement, 4) + "/" +
                          number(100 * one.topk_agreement, 4) + " %"},
          {"NaN/Inf", std::to_string(one.nans) + "/" + std::to_string(one.infs)},
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
