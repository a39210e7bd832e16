#include "isthmus/verify.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <optional>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/options.h"

namespace isthmus::cli {
namespace {

/// Returns null for an infinite or NaN value, which JSON cannot represent.
Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json to_json(const ErrorStatistics& statistics) {
  Json result = Json::object();
  for (std::size_t at = 0; at < kStatistics; ++at)
    result[std::string(kStatisticNames[at])] = number_or_null(statistics.values[at]);
  return result;
}

Json to_json(const std::string& golden, const OutputParity& parity) {
  return {{"golden", golden},
          {"output", parity.output},
          {"max_abs", parity.max_abs},
          {"max_rel", parity.max_rel},
          {"noise_units", parity.noise_units},
          {"cosine", parity.cosine},
          {"nan_mismatches", parity.nan_mismatches},
          {"inf_mismatches", parity.inf_mismatches},
          {"nans", parity.nans},
          {"infs", parity.infs},
          {"argmax_agreement", parity.argmax_agreement},
          {"topk_agreement", parity.topk_agreement},
          {"atol", parity.atol},
          {"rtol", parity.rtol},
          {"passing_atol", number_or_null(parity.passing_atol)},
          {"elements", parity.elements},
          {"to_truth", parity.to_truth},
          {"errors", to_json(parity.errors)},
          {"own", to_json(parity.own)},
          {"allowed", to_json(parity.allowed)},
          {"statistic", parity.statistic},
          {"multiple", number_or_null(parity.multiple)},
          {"strain", number_or_null(parity.strain())}};
}

std::vector<std::pair<std::string, std::string>> to_cells(const std::string& golden,
                                                          const OutputParity& parity) {
  return {{"output", parity.output},
          {"verdict", parity.passed ? "passed" : "FAILED"},
          {"max abs", number(parity.max_abs)},
          {"max rel", number(parity.max_rel)},
          {"x eager's own", parity.noise_units > 0 ? number(parity.noise_units) : "-"},
          {"of allowed", number(100 * parity.strain(), 3) + " %"},
          {"nearest", parity.to_truth ? parity.statistic : "atol"},
          {"cosine", number(parity.cosine, 9)},
          {"top 1/5", number(100 * parity.argmax_agreement, 4) + "/" +
                          number(100 * parity.topk_agreement, 4) + " %"},
          {"NaN/Inf", std::to_string(parity.nans) + "/" + std::to_string(parity.infs)},
          {"worst golden", golden}};
}

ReportRow error_row(const GoldenParity& golden) {
  return {.cells = {{"output", "(all)"}, {"verdict", "FAILED"}, {"worst golden", golden.golden}},
          .json = dump({{"golden", golden.golden}, {"output", nullptr}, {"error", golden.error}}),
          .passed = false,
          .reason = golden.error};
}

/// Returns a row for every output of every golden, for JSON.
std::vector<ReportRow> all_rows(const ParityResult& result) {
  std::vector<ReportRow> rows;
  for (const GoldenParity& golden : result.goldens) {
    for (const OutputParity& parity : golden.outputs)
      rows.push_back({.cells = to_cells(golden.golden, parity),
                      .json = dump(to_json(golden.golden, parity)),
                      .passed = parity.passed,
                      .reason = parity.reason});
    if (!golden.error.empty()) rows.push_back(error_row(golden));
  }
  return rows;
}

/// Returns a row for the worst golden of each output, and for each golden that could not be run.
std::vector<ReportRow> worst_rows(const ParityResult& result) {
  struct Worst {
    const OutputParity* parity;
    const std::string* golden;
  };
  std::vector<Worst> outputs;
  std::vector<ReportRow> errors;
  for (const GoldenParity& golden : result.goldens) {
    for (const OutputParity& parity : golden.outputs) {
      const auto known = std::find_if(outputs.begin(), outputs.end(), [&](const Worst& worst) {
        return worst.parity->output == parity.output;
      });
      if (known == outputs.end())
        outputs.push_back({&parity, &golden.golden});
      else if (&worse(*known->parity, parity) == &parity)
        *known = {&parity, &golden.golden};
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
                                  [](const GoldenParity& golden) { return golden.passed(); });
  const std::string where = " on " + result.device + " with " + result.runtime;
  if (result.passed()) return "PASSED: " + count(result.goldens.size(), "golden") + where;
  return "FAILED: " + std::to_string(result.goldens.size() - static_cast<std::size_t>(good)) +
         " of " + count(result.goldens.size(), "golden") + where;
}

/// Shows progress; used only when standard error is a terminal.
void show_progress(std::string_view golden) {
  std::cerr << "\r\033[Kverifying " << golden << std::flush;
}

/// Reads numbers of goldens of special values, one a line, and writes a JSON line about each.
int serve_specials(const Model& model) {
  const auto write = [](const Json& event) { std::cout << dump(event) << std::endl; };
  write({{"event", "ready"}});
  const auto next = []() -> std::optional<std::size_t> {
    std::size_t number = 0;
    return std::cin >> number ? std::optional(number) : std::nullopt;
  };
  try_specials(model, next, [&](const Golden& golden, const std::string& difference) {
    write({{"event", "special"}, {"golden", golden.name}, {"difference", difference}});
  });
  return kExitGood;
}

struct VerifyOptions {
  CommonOptions common;
  bool specials = false;  ///< serves goldens of special values instead
};

int run(const VerifyOptions& verify_options) {
  const CommonOptions& options = verify_options.common;
  const Model model = Model::load(options.bundle, options.load_options());
  if (verify_options.specials) return serve_specials(model);
  const bool progress = !options.json && isatty(STDERR_FILENO) == 1;
  const ParityResult result = verify(model, progress ? show_progress : nullptr);
  const std::string not_remembered = remember(model, result);
  if (progress) std::cerr << "\r\033[K" << std::flush;

  const auto reporter = make_reporter(options, "verify", "isthmus-run verify");
  Facts facts = context_of(model);
  const auto& source = model.bundle().manifest().source;
  if (const auto reference = source.find("reference"); reference != source.end())
    facts.emplace_back("reference", "no eager module: the file's own answers, by " +
                                        reference->second + " where it was adopted");
  add_notes(facts, model.load_report().notes);
  if (!not_remembered.empty()) facts.emplace_back("not remembered", not_remembered);
  if (const auto& specials = model.bundle().manifest().specials; !specials.empty()) {
    const auto limits = prove_specials(model).limits();
    facts.emplace_back("special values",
                       count(specials.size(), "golden") + ": " +
                           (limits.empty() ? "as the model" : join(limits, "; ")));
  }
  reporter->context(facts);
  for (const ReportRow& row : options.json ? all_rows(result) : worst_rows(result))
    reporter->row(row);
  reporter->finish(result.passed(), verdict_of(result));
  return result.passed() ? kExitGood : kExitParity;
}

}  // namespace

void add_verify(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "verify",
      "Runs every golden at least twice and compares with the answers that the bundle holds");
  const auto options = std::make_shared<VerifyOptions>();
  CommonOptions& common = options->common;
  // The first and second run of each golden are compared too; a warm-up would replace them.
  common.load.warmup = false;
  common.unproven = "allow";  // this command is the proof
  common.load.specials = Specials::kAllow;
  add_bundle(*command, common);
  add_load_options(*command, common);
  add_json(*command, common);
  command
      ->add_flag("--serve-specials", options->specials,
                 "Read numbers of goldens of special values, and write a JSON line about each")
      ->group("");  // for isthmus export, not for people
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace isthmus::cli
