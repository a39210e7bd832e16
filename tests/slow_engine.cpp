// Wraps another engine and makes each call slower by SLOW_ENGINE_US microseconds of busy waiting,
// to prove that the tests of timings detect a slow-down. WRAPPED_ENGINE is the path of the other
// engine library. Compiled under the same name into another folder, this one is found first with
// --engine-path.
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>

#include "isthmus/engine.h"
#include "isthmus/error.h"

namespace {

using namespace isthmus;
using Clock = std::chrono::steady_clock;

std::chrono::microseconds slow_down() {
  const char* value = std::getenv("SLOW_ENGINE_US");
  return std::chrono::microseconds(value == nullptr ? 0 : std::atoll(value));
}

class SlowExecutable final : public Executable {
 public:
  explicit SlowExecutable(std::unique_ptr<Executable> wrapped) : wrapped_(std::move(wrapped)) {}

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    std::vector<Tensor> outputs = wrapped_->run(method, inputs);
    const Clock::time_point end = Clock::now() + slow_down_;
    while (Clock::now() < end) {
    }
    return outputs;
  }

  [[nodiscard]] Tensor transfer(const Tensor& tensor, Device device) override {
    return wrapped_->transfer(tensor, device);
  }
  [[nodiscard]] bool prepares() const override { return wrapped_->prepares(); }
  bool prepare(std::size_t method, std::span<const Tensor> inputs) override {
    return wrapped_->prepare(method, inputs);
  }
  void synchronize() override { wrapped_->synchronize(); }
  [[nodiscard]] std::vector<std::string> notes() const override { return wrapped_->notes(); }
  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<SlowExecutable>(wrapped_->fork());
  }

 private:
  std::unique_ptr<Executable> wrapped_;
  std::chrono::microseconds slow_down_ = slow_down();
};

class SlowEngine final : public Engine {
 public:
  explicit SlowEngine(Engine& wrapped) : wrapped_(wrapped) {}

  [[nodiscard]] std::vector<std::string> formats() const override { return wrapped_.formats(); }
  EngineInfo info() override { return wrapped_.info(); }
  std::optional<std::string> can_run(const Artifact& artifact,
                                     const LoadOptions& options) override {
    return wrapped_.can_run(artifact, options);
  }
  std::unique_ptr<Executable> load(const ArtifactSource& source,
                                   const LoadOptions& options) override {
    return std::make_unique<SlowExecutable>(wrapped_.load(source, options));
  }

 private:
  Engine& wrapped_;
};

Engine& wrapped_engine() {
  void* library = dlopen(WRAPPED_ENGINE, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw EngineUnavailable(dlerror());
  using Get = Engine* (*)();
  return *reinterpret_cast<Get>(dlsym(library, "isthmus_engine"))();
}

}  // namespace

ISTHMUS_EXPORT_ENGINE([] {
  static SlowEngine engine(wrapped_engine());
  return &engine;
}())
