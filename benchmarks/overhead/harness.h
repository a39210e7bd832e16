#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/isthmus.h"

namespace isthmus::overhead {

/// Something to call over and over, and its name in the output.
using Contender = std::pair<std::string, std::function<void()>>;

/// What every contender gets: one artifact of the bundle, its file and the first golden's inputs.
struct Subject {
  const Model& model;
  std::filesystem::path file;      ///< of the method `forward`
  std::vector<std::string> names;  ///< of the inputs, in the signature's order
  std::vector<Tensor> inputs;
};

/// Contenders beside `run` and `run_ordered`; the first is the engine's own API, called bare.
using MakeContenders = std::function<std::vector<Contender>(const Subject&)>;

/// `PROGRAM BUNDLE [TURNS]`: loads the bundle with the engine, one thread, and lets the contenders
/// take turns in an order drawn anew for each turn. Prints {"contender": [mean nanoseconds of a
/// call, one number a turn], ...}; `overhead.py` judges them. Returns main's exit status.
int measure(int argc, char** argv, const std::string& engine, const MakeContenders& make);

}  // namespace isthmus::overhead
