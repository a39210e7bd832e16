// An engine outside of isthmus, as a user would write it: y = 2 * x, with the number of calls as
// its state. Where the manifest says that the call writes x, x is x + 1 after it.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "isthmus/engine.h"
#include "isthmus/error.h"

namespace {

using namespace isthmus;

class Doubler final : public Executable {
 public:
  Doubler(std::shared_ptr<std::atomic<int>> prepared, bool writes)
      : prepared_(std::move(prepared)), writes_(writes) {}

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    if (method == 1) return {Tensor::scalar<std::int64_t>(calls_.load())};
    const auto* x = inputs[0].data_as<float>();
    if (x[0] == -6) return {inputs[0]};  // as an engine whose graph gives its input back
    // A negative first value asks for a fault or a delay.
    if (x[0] == -1) throw ExecutionError("the engine was asked to fail");
    if (x[0] == -2) return {Tensor::empty(DType::kInt64, inputs[0].shape())};
    if (x[0] == -5) return {inputs[0], inputs[0]};
    if (x[0] == -3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ++calls_;
    Tensor y = Tensor::empty(DType::kFloat32, inputs[0].shape());
    // Like a model without a mask, whose answer depends on the padded length.
    const float more = x[0] == -4 ? static_cast<float>(inputs[0].shape().back()) : 0;
    for (std::int64_t i = 0; i < y.numel(); ++i) y.data_as<float>()[i] = 2 * x[i] + more;
    if (!writes_) return {y};
    Tensor after = inputs[0].clone();
    for (std::int64_t i = 0; i < after.numel(); ++i) ++after.data_as<float>()[i];
    return {y, after};
  }

  [[nodiscard]] bool prepares() const override { return true; }

  bool prepare(std::size_t, std::span<const Tensor>) override {
    ++*prepared_;
    return true;
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    if (*prepared_ == 0) return {};
    return {"prepared for " + std::to_string(*prepared_) + " calls"};
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<Doubler>(prepared_, writes_);
  }

 private:
  std::shared_ptr<std::atomic<int>> prepared_;  // shared by the forks
  bool writes_;
  std::atomic<std::int64_t> calls_ = 0;
};

class FakeEngine final : public Engine {
 public:
  [[nodiscard]] std::vector<std::string> formats() const override { return {"fake"}; }

  [[nodiscard]] EngineInfo info() override {
    return {.name = "fake",
            .runtime = "fake runtime 1.0",
            .runtime_path = "",
            .unavailable = "",
            .devices = {"cpu"},
            .runtime_files = {},
            .details = {}};
  }

  [[nodiscard]] std::optional<std::string> can_run(const Artifact& artifact,
                                                   const LoadOptions&) override {
    if (artifact.format == "fake") return std::nullopt;
    return "it runs fake artifacts only";
  }

  [[nodiscard]] std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                 const LoadOptions&) override {
    if (source.files.front().size != 4) throw BundleError("expected four bytes");
    return std::make_unique<Doubler>(std::make_shared<std::atomic<int>>(0),
                                     !source.manifest.methods.front().writes.empty());
  }
};

FakeEngine engine;

}  // namespace

ISTHMUS_EXPORT_ENGINE(&engine)
