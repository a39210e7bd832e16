// The cost of a call through isthmus over AOTIModelPackageLoader::run on the same package.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include "isthmus/torch.h"
#include "overhead/harness.h"

namespace {

std::vector<isthmus::overhead::Contender> contenders(const isthmus::overhead::Subject& subject) {
  at::set_num_threads(1);
  auto bare = std::make_shared<torch::inductor::AOTIModelPackageLoader>(subject.file);
  std::vector<at::Tensor> tensors;
  for (const isthmus::Tensor& input : subject.inputs) tensors.push_back(isthmus::to_torch(input));
  return {{"bare run", [bare, tensors] {
             const c10::InferenceMode no_gradients;
             const std::vector<at::Tensor> answer = bare->run(tensors);
           }}};
}

}  // namespace

int main(int argc, char** argv) {
  return isthmus::overhead::measure(argc, argv, "aoti", contenders);
}
