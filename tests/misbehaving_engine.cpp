// An engine for TorchScript that ends the process or hangs in its first call, as MISBEHAVE says.
// It tests that such an engine costs the export its own verdict only.
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <thread>

#include "isthmus/engine.h"

namespace {

using namespace isthmus;

class Misbehaving final : public Executable {
 public:
  std::vector<Tensor> run(std::size_t, std::span<const Tensor>) override {
    if (std::string_view(std::getenv("MISBEHAVE")) == "crash") std::abort();
    std::this_thread::sleep_for(std::chrono::hours(1));
    return {};
  }
  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<Misbehaving>();
  }
};

class MisbehavingEngine final : public Engine {
 public:
  [[nodiscard]] std::vector<std::string> formats() const override { return {"torchscript"}; }
  EngineInfo info() override {
    EngineInfo result;
    result.name = "misbehaving";
    result.runtime = "Trouble 1.0";
    return result;
  }
  std::optional<std::string> can_run(const Artifact&, const LoadOptions&) override {
    return std::nullopt;
  }
  std::unique_ptr<Executable> load(const ArtifactSource&, const LoadOptions&) override {
    return std::make_unique<Misbehaving>();
  }
};

}  // namespace

ISTHMUS_EXPORT_ENGINE([] {
  static MisbehavingEngine engine;
  return &engine;
}())
