// The cost of a call through isthmus over ov::InferRequest::infer on the same graph, which includes
// setting the inputs and getting the outputs.
#include <algorithm>
#include <openvino/openvino.hpp>

#include "overhead/harness.h"

namespace {

struct Bare {
  ov::Core core;
  ov::CompiledModel compiled;
  ov::InferRequest request;
  std::vector<ov::Tensor> inputs;
};

std::vector<isthmus::overhead::Contender> contenders(const isthmus::overhead::Subject& subject) {
  auto bare = std::make_shared<Bare>();
  bare->compiled =
      bare->core.compile_model(subject.file.string(), "CPU", ov::inference_num_threads(1),
                               ov::hint::inference_precision(ov::element::f32));
  bare->request = bare->compiled.create_infer_request();
  for (const auto& port : bare->compiled.inputs()) {
    const auto place = std::find(subject.names.begin(), subject.names.end(), port.get_any_name());
    const isthmus::Tensor& input = subject.inputs.at(place - subject.names.begin());
    bare->inputs.emplace_back(port.get_element_type(),
                              ov::Shape(input.shape().begin(), input.shape().end()), input.data());
  }
  return {{"bare infer", [bare] {
             for (std::size_t i = 0; i < bare->inputs.size(); ++i)
               bare->request.set_input_tensor(i, bare->inputs[i]);
             bare->request.infer();
             for (std::size_t i = 0; i < bare->compiled.outputs().size(); ++i)
               const ov::Tensor answer = bare->request.get_output_tensor(i);
           }}};
}

}  // namespace

int main(int argc, char** argv) {
  return isthmus::overhead::measure(argc, argv, "openvino", contenders);
}
