// Calls LibTorch directly, without isthmus: FORMAT FILE INPUTS DEVICE THREADS. Speaks the protocol
// of `isthmus-run bench --worker`, and "answer FILE", which saves the first output as float32
// numbers.
//
// INPUTS holds int64 numbers: the number of tensors, and the rank, sizes and elements of each.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <sys/resource.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/cuda.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Tensors = std::vector<at::Tensor>;
using Call = std::function<at::Tensor(const Tensors&)>;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

Tensors read_inputs(const std::string& path, c10::Device device) {
  std::ifstream file(path, std::ios::binary);
  const auto number = [&file] {
    std::int64_t value = 0;
    file.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!file) throw std::runtime_error("the inputs end too early");
    return value;
  };
  Tensors inputs;
  for (std::int64_t left = number(); left > 0; --left) {
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(number()));
    for (std::int64_t& size : sizes) size = number();
    at::Tensor tensor = at::empty(sizes, at::kLong);
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      tensor.mutable_data_ptr<std::int64_t>()[i] = number();
    inputs.push_back(tensor.to(device));
  }
  return inputs;
}

Call open(const std::string& format, const std::string& file, c10::Device device) {
  if (format == "aoti") {
    const auto package = std::make_shared<torch::inductor::AOTIModelPackageLoader>(
        file, "model", false, 1, device.is_cuda() ? device.index() : c10::DeviceIndex(-1));
    return [package](const Tensors& inputs) { return package->run(inputs).at(0); };
  }
  const auto module = std::make_shared<torch::jit::Module>(torch::jit::load(file, device));
  module->eval();
  return [module](const Tensors& inputs) {
    const c10::IValue result =
        module->forward(std::vector<c10::IValue>(inputs.begin(), inputs.end()));
    return result.isTensor() ? result.toTensor() : result.toTuple()->elements()[0].toTensor();
  };
}

long peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

void save(const at::Tensor& tensor, const std::string& path) {
  const at::Tensor values = tensor.to(at::kCPU, at::kFloat).contiguous();
  std::ofstream(path, std::ios::binary)
      .write(static_cast<const char*>(values.const_data_ptr()),
             static_cast<std::streamsize>(values.nbytes()));
}

void serve(const std::string& format, const std::string& file, const std::string& inputs_file,
           c10::Device device) {
  const c10::InferenceMode no_gradients;
  const auto wait = [&device] {
    if (device.is_cuda()) torch::cuda::synchronize(device.index());
  };
  const auto start = Clock::now();
  const Call call = open(format, file, device);
  const Tensors inputs = read_inputs(inputs_file, device);
  wait();
  const double load_ms = ms_since(start);
  const auto timed = [&] {
    const auto begun = Clock::now();
    const at::Tensor result = call(inputs);
    wait();
    return ms_since(begun);  // the result is released outside of the timing
  };
  const double first_ms = timed();
  std::cout << R"({"event": "ready", "load_ms": )" << load_ms << R"(, "first_call_ms": )"
            << first_ms << R"(, "runtime": "LibTorch )" << TORCH_VERSION << "\"}" << std::endl;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "answer") {
      words >> word;
      save(call(inputs), word);
      std::cout << R"({"event": "answered"})" << std::endl;
      continue;
    }
    int count = 0;
    words >> count;
    std::cout << R"({"event": "samples", "samples_ms": [)";
    for (int i = 0; i < count; ++i) std::cout << (i == 0 ? "" : ", ") << timed();
    std::cout << "]}" << std::endl;
  }
  std::cout << R"({"event": "done", "peak_rss_bytes": )" << peak_rss_bytes() << "}" << std::endl;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) throw std::runtime_error("expected FORMAT FILE INPUTS DEVICE THREADS");
  at::set_num_threads(std::stoi(argv[5]));
  std::cout.precision(9);
  serve(argv[1], argv[2], argv[3], c10::Device(std::string(argv[4])));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
