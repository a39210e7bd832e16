#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace isthmus::cli {

/// Runs the command and returns its exit code. The subcommand on the command line sets the action,
/// and main runs it after parsing, so that its exceptions are the library's and not the parser's.
using Action = std::function<int()>;

void add_info(CLI::App& app, Action& action);
void add_predict(CLI::App& app, Action& action);
void add_verify(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);

inline constexpr int kExitGood = 0;
inline constexpr int kExitParity = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitBundle = 3;
inline constexpr int kExitEngine = 4;
inline constexpr int kExitExecution = 5;

}  // namespace isthmus::cli
