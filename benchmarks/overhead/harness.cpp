#include "overhead/harness.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <random>

namespace isthmus::overhead {
namespace {

constexpr int kCallsPerTurn = 2000;
constexpr int kWarmupTurns = 3;

double nanoseconds_per_call(const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < kCallsPerTurn; ++i) call();
  const std::chrono::duration<double, std::nano> taken = Clock::now() - start;
  return taken.count() / kCallsPerTurn;
}

void print_json(const std::map<std::string, std::vector<double>>& turns) {
  std::cout << '{';
  const char* separator = "";
  for (const auto& [name, samples] : turns) {
    std::cout << separator << '"' << name << "\": [";
    separator = ", ";
    for (std::size_t i = 0; i < samples.size(); ++i)
      std::cout << (i == 0 ? "" : ", ") << samples[i];
    std::cout << ']';
  }
  std::cout << "}\n";
}

Subject subject_of(const Model& model) {
  const Bundle& bundle = model.bundle();
  const auto calls = bundle.golden(bundle.manifest().goldens.front());
  Subject subject{model, bundle.root() / model.artifact().files.front().path, {}, {}};
  for (const ValueSpec& spec : model.signature().inputs) {
    subject.names.push_back(spec.name);
    subject.inputs.push_back(calls.front().inputs.at(spec.name));
  }
  return subject;
}

std::map<std::string, std::vector<double>> take_turns(const std::vector<Contender>& contenders,
                                                      int turn_count) {
  std::map<std::string, std::vector<double>> turns;
  std::vector<std::size_t> order(contenders.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(0);
  for (int turn = -kWarmupTurns; turn < turn_count; ++turn) {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      const double taken = nanoseconds_per_call(contenders[i].second);
      if (turn >= 0) turns[contenders[i].first].push_back(taken);
    }
  }
  return turns;
}

}  // namespace

int measure(int argc, char** argv, const std::string& engine, const MakeContenders& make) try {
  if (argc < 2) {
    std::cerr << "usage: " << argv[0] << " BUNDLE [TURNS]\n";
    return 2;
  }
  const int turn_count = argc > 2 ? std::max(1, std::atoi(argv[2])) : 40;
  const Model model =
      Model::load(argv[1], {.engine = engine, .threads = 1, .trust = Trust::kNative});
  Subject subject = subject_of(model);
  Inputs named;
  for (std::size_t i = 0; i < subject.names.size(); ++i)
    named.add(subject.names[i], subject.inputs[i]);
  std::vector<Contender> contenders = make(subject);
  contenders.emplace_back("run_ordered", [&] { model.run_ordered(subject.inputs); });
  contenders.emplace_back("run", [&] { model.run(named); });
  print_json(take_turns(contenders, turn_count));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}

}  // namespace isthmus::overhead
