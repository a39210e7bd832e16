#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>
#include <string>

#include "cli/commands.h"
#include "cli/format.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"

namespace {

using namespace isthmus::cli;

constexpr const char* kFooter =
    "Exit codes: 0 good; 1 parity failed, or memory grows (bench --soak); 2 bad usage or input;\n"
    "3 the bundle is damaged, foreign or not trusted; 4 engine or device not available;\n"
    "5 the engine failed while running.\n"
    "With --json, errors are JSON on standard output too: {\"error\": {\"kind\", \"message\"}}.";

int fail(bool json, const std::string& kind, const std::string& message, int code) {
  if (json) std::cout << dump({{"error", {{"kind", kind}, {"message", message}}}}, 2) << std::endl;
  std::cerr << "error: " << message << std::endl;
  return code;
}

/// Returns true when the reader of standard output has ended, as in `isthmus-run info B | head -1`.
bool output_is_closed() {
  pollfd out{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return poll(&out, 1, 0) == 1 && (out.revents & (POLLERR | POLLHUP)) != 0;
}

/// Flushes standard output and returns the exit code. A reader that has ended is not an error;
/// output that is lost, for example on a full disk, is one.
int flushed(int code) {
  std::cout.flush();
  if (std::cout.good() || output_is_closed()) return code;
  std::cerr << "error: standard output cannot be written completely; is the disk full?"
            << std::endl;
  return code == kExitGood ? kExitUsage : code;
}

/// Returns CLI11's message, completed by the unknown command, which CLI11 does not name.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const auto chosen = app.get_subcommands();
  if (!chosen.empty())
    return std::string(error.what()) + "; see isthmus-run " + chosen.front()->get_name() +
           " --help";
  const std::vector<std::string> rest = app.remaining();
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return (rest.empty() ? "no command was given" : "there is no command \"" + rest.front() + "\"") +
         "; expected one of " + join(names) + "; see isthmus-run --help";
}

int run(const Action& action, bool json) {
  try {
    return action();
  } catch (const isthmus::Error& error) {
    return fail(json, name(error.kind()), error.what(), isthmus::exit_code(error.kind()));
  } catch (const std::bad_alloc&) {
    return fail(json, "ExecutionError", "out of memory; use smaller inputs or a larger machine",
                kExitExecution);
  } catch (const std::exception& error) {
    return fail(json, "ExecutionError", error.what(), kExitExecution);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  // LibTorch's allocator reads this variable when it is opened. Huge pages save page faults for
  // large tensors. A value that the user has set stays.
  ::setenv("THP_MEM_ALLOC_ENABLE", "1", 0);
  // Read before parsing, because usage errors are reported as JSON too.
  bool json = false;
  for (int i = 1; i < argc; ++i) json |= std::strcmp(argv[i], "--json") == 0;

  CLI::App app{"Runs, proves and times isthmus bundles, without Python.", "isthmus-run"};
  app.footer(kFooter);
  app.set_version_flag("--version", "isthmus-run " + isthmus::version());
  app.require_subcommand(1);
  Action action;
  add_info(app, action);
  add_predict(app, action);
  add_verify(app, action);
  add_bench(app, action);
  add_doctor(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help or --version
      app.exit(error);
      return flushed(kExitGood);
    }
    return flushed(fail(json, "InvalidInput", usage_message(app, error), kExitUsage));
  }
  // All output is written. Exiting at once skips the teardown of the runtimes, which takes a tenth
  // of a second.
  std::_Exit(flushed(run(action, json)));
}
