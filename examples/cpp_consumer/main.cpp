// Runs a bundle on token ids given on the command line: app BUNDLE 101 2040 2001 3958 102
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "isthmus/isthmus.h"

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::cerr << "usage: app BUNDLE TOKEN_ID...\n";
    return 2;
  }
  std::vector<std::int64_t> ids;
  for (int i = 2; i < argc; ++i) ids.push_back(std::atoll(argv[i]));
  const auto tokens = static_cast<std::int64_t>(ids.size());

  const auto model = isthmus::Model::load(argv[1], {.threads = 2});
  const isthmus::Outputs outputs =
      model.run({{"input_ids", isthmus::Tensor::copy_of(ids, {1, tokens})},
                 {"attention_mask",
                  isthmus::Tensor::copy_of(std::vector<std::int64_t>(ids.size(), 1), {1, tokens})},
                 {"token_type_ids", isthmus::Tensor::copy_of(
                                        std::vector<std::int64_t>(ids.size(), 0), {1, tokens})}});
  for (const auto& [name, tensor] : outputs) std::cout << name << ": " << tensor.describe() << '\n';
  return 0;
} catch (const isthmus::Error& error) {
  std::cerr << error.what() << '\n';
  return isthmus::exit_code(error.kind());
}
