#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace isthmus::cli {

/// What the command line asks for: set by the subcommand that was named, run by main, gives the
/// exit code. Parsing is over by then, so an exception out of it is the library's.
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
