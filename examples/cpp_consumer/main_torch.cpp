// Runs a bundle with LibTorch tensors as inputs and outputs: app_torch BUNDLE 101 2040 2001 3958
// 102
#include <ATen/ATen.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "isthmus/isthmus.h"
#include "isthmus/torch.h"

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::cerr << "usage: app_torch BUNDLE TOKEN_ID...\n";
    return 2;
  }
  std::vector<std::int64_t> values;
  for (int i = 2; i < argc; ++i) values.push_back(std::atoll(argv[i]));
  const at::Tensor ids = at::tensor(values, at::kLong).unsqueeze(0);

  const auto model = isthmus::Model::load(argv[1]);
  const auto outputs = isthmus::run(model, {{"input_ids", ids},
                                            {"attention_mask", at::ones_like(ids)},
                                            {"token_type_ids", at::zeros_like(ids)}});
  for (const auto& [name, tensor] : outputs) std::cout << name << ": " << tensor.sizes() << '\n';
  return 0;
} catch (const isthmus::Error& error) {
  std::cerr << error.what() << '\n';
  return isthmus::exit_code(error.kind());
}
