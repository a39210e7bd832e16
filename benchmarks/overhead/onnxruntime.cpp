// The cost of a call through isthmus over Ort::Session::Run on the same graph.
#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <stdexcept>

#include "isthmus/engine.h"
#include "overhead/harness.h"

namespace {

/// Initialises the API of the library that the engine opened.
void open_api() {
  const std::string path = isthmus::open_engine("onnxruntime").info().runtime_path;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error("cannot open " + path);
  const auto base =
      reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));  // NOLINT
  if (base == nullptr) throw std::runtime_error(path + " is no ONNX Runtime");
  Ort::InitApi(base()->GetApi(ORT_API_VERSION));
}

struct Bare {
  Ort::Session session{nullptr};
  std::vector<Ort::AllocatedStringPtr> names;
  std::vector<const char*> input_names;
  std::vector<const char*> output_names;
  std::vector<Ort::Value> values;
};

std::vector<isthmus::overhead::Contender> contenders(const isthmus::overhead::Subject& subject) {
  open_api();
  static Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "bare");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
  auto bare = std::make_shared<Bare>();
  bare->session = Ort::Session(environment, subject.file.c_str(), options);
  Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t i = 0; i < bare->session.GetInputCount(); ++i)
    bare->input_names.push_back(
        bare->names.emplace_back(bare->session.GetInputNameAllocated(i, allocator)).get());
  for (std::size_t i = 0; i < bare->session.GetOutputCount(); ++i)
    bare->output_names.push_back(
        bare->names.emplace_back(bare->session.GetOutputNameAllocated(i, allocator)).get());
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  for (const char* name : bare->input_names) {
    const auto place = std::find(subject.names.begin(), subject.names.end(), name);
    const isthmus::Tensor& input = subject.inputs.at(place - subject.names.begin());
    bare->values.push_back(Ort::Value::CreateTensor(
        memory, input.data(), input.nbytes(), input.shape().data(), input.rank(),
        input.dtype() == isthmus::DType::kInt64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                                                : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
  }
  return {{"bare Run", [bare] {
             const std::vector<Ort::Value> answer = bare->session.Run(
                 Ort::RunOptions{nullptr}, bare->input_names.data(), bare->values.data(),
                 bare->values.size(), bare->output_names.data(), bare->output_names.size());
           }}};
}

}  // namespace

int main(int argc, char** argv) {
  return isthmus::overhead::measure(argc, argv, "onnxruntime", contenders);
}
