// What a call through isthmus adds to a bare torch::jit::Module::forward on the same archive.
//
//   isthmus-overhead BUNDLE [TURNS]
//
// One process, one thread; the contenders take turns in an order drawn anew for each turn. Prints
// {"contender": [mean nanoseconds of a call, one number a turn], ...}; `overhead.py` judges them.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "isthmus/isthmus.h"
#include "isthmus/torch.h"

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

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::cerr << "usage: isthmus-overhead BUNDLE [TURNS]\n";
    return 2;
  }
  const int turn_count = argc > 2 ? std::max(1, std::atoi(argv[2])) : 40;
  at::set_num_threads(1);

  const isthmus::Model model = isthmus::Model::load(argv[1], {.threads = 1});
  const isthmus::Bundle& bundle = model.bundle();
  torch::jit::Module bare = torch::jit::load(bundle.root() / model.artifact().files.front().path);

  const isthmus::Signature& signature = model.signature();
  const auto calls = bundle.golden(bundle.manifest().goldens.front());
  std::vector<c10::IValue> values;
  std::vector<isthmus::Tensor> ordered;
  isthmus::Inputs named;
  isthmus::TorchInputs tensors;
  for (const isthmus::ValueSpec& spec : signature.inputs) {
    const at::Tensor tensor = isthmus::to_torch(calls.front().inputs.at(spec.name)).clone();
    values.emplace_back(tensor);
    ordered.push_back(isthmus::from_torch(tensor));
    named.add(spec.name, isthmus::from_torch(tensor));
    tensors.emplace_back(spec.name, tensor);
  }

  const std::vector<std::pair<std::string, std::function<void()>>> contenders{
      {"bare forward",
       [&] {
         const c10::InferenceMode no_gradients;
         const c10::IValue answer = bare.forward(values);
       }},
      {"run_ordered", [&] { model.run_ordered(ordered); }},
      {"run", [&] { model.run(named); }},
      {"run with at::Tensor", [&] { isthmus::run(model, tensors); }}};

  std::map<std::string, std::vector<double>> turns;
  std::vector<std::size_t> order{0, 1, 2, 3};
  std::mt19937 random(0);
  for (int turn = -kWarmupTurns; turn < turn_count; ++turn) {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      const double taken = nanoseconds_per_call(contenders[i].second);
      if (turn >= 0) turns[contenders[i].first].push_back(taken);
    }
  }
  print_json(turns);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
