#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/isthmus.h"

namespace isthmus::overhead {

/// A call to time, and its name in the output.
using Contender = std::pair<std::string, std::function<void()>>;

/// The artifact that every contender runs, its file, and the first golden's inputs.
struct Subject {
  const Model& model;
  std::filesystem::path file;      ///< the file of the method `forward`
  std::vector<std::string> names;  ///< the inputs' names, in the signature's order
  std::vector<Tensor> inputs;
};

/// Returns the contenders beside `run` and `run_ordered`; the first calls the engine's own API.
using MakeContenders = std::function<std::vector<Contender>(const Subject&)>;

/// Runs `PROGRAM BUNDLE [TURNS]`: loads the bundle with the engine and a single thread, and lets
/// the contenders take turns in random order. Prints {"contender": [mean nanoseconds of a call, a
/// number for each turn], ...}; `overhead.py` judges them. Returns main's exit status.
int measure(int argc, char** argv, const std::string& engine, const MakeContenders& make);

}  // namespace isthmus::overhead
