// The cost of a call through isthmus over torch::jit::Module::forward on the same archive.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/serialization/import.h>

#include "isthmus/torch.h"
#include "overhead/harness.h"

namespace {

std::vector<isthmus::overhead::Contender> contenders(const isthmus::overhead::Subject& subject) {
  at::set_num_threads(1);
  torch::jit::Module bare = torch::jit::load(subject.file);
  std::vector<c10::IValue> values;
  isthmus::TorchInputs tensors;
  for (std::size_t i = 0; i < subject.names.size(); ++i) {
    const at::Tensor tensor = isthmus::to_torch(subject.inputs[i]);
    values.emplace_back(tensor);
    tensors.emplace_back(subject.names[i], tensor);
  }
  return {{"bare forward",
           [bare, values]() mutable {
             const c10::InferenceMode no_gradients;
             const c10::IValue answer = bare.forward(values);
           }},
          {"run with at::Tensor", [&model = subject.model, tensors] { run(model, tensors); }}};
}

}  // namespace

int main(int argc, char** argv) {
  return isthmus::overhead::measure(argc, argv, "torchscript", contenders);
}
