// Sends a stream of sentences through isthmus::Batcher for benchmarks/peers.py:
// isthmus-peers-stream BUNDLE STREAM.npz ENGINE THREADS WORKERS MAX_REQUESTS MAX_PADDING SAMPLE
//
// Answers with a line of JSON to each line of standard input, as `isthmus-run bench --worker` does.
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <future>
#include <iostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "isthmus/isthmus.h"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Stream {
 public:
  Stream(isthmus::Model model, const std::filesystem::path& file,
         const isthmus::BatcherOptions& options)
      : file_(isthmus::read_tensors(file)), batcher_(std::move(model), options) {
    const isthmus::Tensor& lengths = file_.at("lengths");
    lengths_.assign(lengths.data_as<std::int64_t>(),
                    lengths.data_as<std::int64_t>() + lengths.shape().at(0));
  }

  /// Returns the answers to all sentences, in their order.
  std::vector<isthmus::Outputs> call() {
    const std::int64_t before = batcher_.stats().elements;
    std::vector<std::future<isthmus::Outputs>> waiting;
    waiting.reserve(lengths_.size());
    const auto* ids = file_.at("ids").data_as<std::int64_t>();
    for (const std::int64_t length : lengths_) {
      waiting.push_back(batcher_.submit(inputs(ids, length)));
      ids += length;
    }
    std::vector<isthmus::Outputs> answers;
    answers.reserve(waiting.size());
    for (auto& one : waiting) answers.push_back(one.get());
    elements_ = batcher_.stats().elements - before;
    return answers;
  }

  [[nodiscard]] std::int64_t elements() const { return elements_; }

 private:
  static isthmus::Inputs inputs(const std::int64_t* ids, std::int64_t length) {
    const auto size = static_cast<std::size_t>(length);
    const isthmus::Shape shape{1, length};
    return {
        {"input_ids", isthmus::Tensor::copy_of(std::span(ids, size), shape)},
        {"attention_mask", isthmus::Tensor::copy_of(std::vector<std::int64_t>(size, 1), shape)},
        {"token_type_ids", isthmus::Tensor::copy_of(std::vector<std::int64_t>(size, 0), shape)}};
  }

  isthmus::NamedTensors file_;
  std::vector<std::int64_t> lengths_;
  isthmus::Batcher batcher_;
  std::int64_t elements_ = 0;
};

void serve(Stream& stream, std::size_t sample) {
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    if (line.starts_with("answer ")) {
      const std::vector<isthmus::Outputs> answers = stream.call();
      isthmus::NamedTensors chosen;
      for (std::size_t at = 0; at < answers.size(); at += sample)
        chosen.add(std::to_string(at), answers[at].at("last_hidden_state"));
      isthmus::write_safetensors(line.substr(7), chosen);
      std::cout << R"({"event": "answered", "elements": )" << stream.elements() << '}' << std::endl;
      continue;
    }
    std::string samples;
    for (int calls = std::stoi(line.substr(4)); calls > 0; --calls) {
      const Clock::time_point start = Clock::now();
      const std::vector<isthmus::Outputs> answers = stream.call();
      samples += (samples.empty() ? "" : ", ") + std::to_string(milliseconds_since(start));
    }
    std::cout << R"({"event": "samples", "samples_ms": [)" << samples << "]}" << std::endl;
  }
  std::cout << R"({"event": "done", "peak_rss_bytes": )" << isthmus::peak_memory_bytes() << '}'
            << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 10) {
    std::cerr << "started by benchmarks/peers.py\n";
    return 2;
  }
  try {
    const Clock::time_point start = Clock::now();
    const isthmus::Model model = isthmus::Model::load(argv[1], {.engine = argv[3],
                                                                .artifact = argv[9],
                                                                .threads = std::stoi(argv[4]),
                                                                .trust = isthmus::Trust::kNative});
    Stream stream(model, argv[2],
                  {.workers = std::stoi(argv[5]),
                   .max_requests = std::stoi(argv[6]),
                   .max_padding = std::stod(argv[7])});
    std::cout << R"({"event": "ready", "first_call_ms": 0, "load_ms": )"
              << milliseconds_since(start) << R"(, "runtime": ")" << model.load_report().artifact
              << " on " << model.load_report().runtime << R"("})" << std::endl;
    serve(stream, std::stoul(argv[8]));
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
