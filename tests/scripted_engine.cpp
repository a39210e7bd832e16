// An engine for the tests of isthmus-run. Its artifacts are lines of text that tell it how to
// behave, so that a test can cause any outcome without LibTorch:
//
//   gain G           y = G * x + bias + state
//   bias B
//   nan 1            the first element of y is NaN
//   fail_on_call N   the Nth call of an executable throws
//   leak N           each call leaks N bytes
//   delay_us N       each call waits for N microseconds
//
// "forward" takes x: float32 and adds 1 to the state of a stateful model; "reset" sets it to 0.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "isthmus/engine.h"
#include "isthmus/error.h"

namespace {

using namespace isthmus;

using Script = std::map<std::string, double>;

double value_of(const Script& script, const std::string& key, double otherwise) {
  const auto entry = script.find(key);
  return entry == script.end() ? otherwise : entry->second;
}

class Scripted final : public Executable {
 public:
  Scripted(Script script, bool stateful) : script_(std::move(script)), stateful_(stateful) {}

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    if (++calls_ == static_cast<int>(value_of(script_, "fail_on_call", -1)))
      throw std::runtime_error("the script says so");
    if (method == 1) {
      state_ = 0;
      return {};
    }
    if (const double bytes = value_of(script_, "leak", 0); bytes > 0) keep(bytes);
    std::this_thread::sleep_for(
        std::chrono::duration<double, std::micro>(value_of(script_, "delay_us", 0)));
    const Tensor& x = inputs[0];
    Tensor y = Tensor::empty(DType::kFloat32, x.shape());
    const auto* from = x.data_as<float>();
    auto* to = y.data_as<float>();
    const double shift = value_of(script_, "bias", 0) + state_;
    for (std::int64_t i = 0; i < x.numel(); ++i)
      to[i] = static_cast<float>(value_of(script_, "gain", 1) * from[i] + shift);
    if (value_of(script_, "nan", 0) != 0) to[0] = std::numeric_limits<float>::quiet_NaN();
    if (stateful_) state_ += 1;
    return {y};
  }

  [[nodiscard]] std::vector<std::string> notes() const override { return {"it is only a script"}; }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<Scripted>(script_, stateful_);
  }

 private:
  static void keep(double bytes) {
    static std::mutex mutex;
    static std::deque<std::string> kept;
    const std::lock_guard lock(mutex);
    kept.emplace_back(static_cast<std::size_t>(bytes), 'x');
  }

  Script script_;
  bool stateful_;
  std::atomic<int> calls_ = 0;
  double state_ = 0;
};

class ScriptedEngine final : public Engine {
 public:
  std::vector<std::string> formats() const override { return {"scripted"}; }

  EngineInfo info() override {
    EngineInfo result;
    result.name = "scripted";
    if (std::getenv("SCRIPTED_ENGINE_UNAVAILABLE") != nullptr) {
      result.unavailable = "the scripted runtime is not here; unset SCRIPTED_ENGINE_UNAVAILABLE";
      return result;
    }
    result.runtime = "Script 1.0";
    result.runtime_path = "/nowhere/script";
    result.devices = {"cpu"};
    result.details = {"one detail"};
    return result;
  }

  std::optional<std::string> can_run(const Artifact& artifact, const LoadOptions&) override {
    if (const EngineInfo facts = info(); !facts.unavailable.empty()) return facts.unavailable;
    if (artifact.format != "scripted") return "runs scripted, not " + artifact.format;
    const auto needed = artifact.requires_versions.find("script");
    if (needed != artifact.requires_versions.end() && needed->second != "1.0")
      return "made for Script " + needed->second + ", found Script 1.0";
    return std::nullopt;
  }

  std::unique_ptr<Executable> load(const ArtifactSource& source,
                                   const LoadOptions& options) override {
    for (const auto& [key, value] : options.engine_options)
      throw InvalidInput("the engine \"scripted\" has no option \"" + key + "\"");
    const auto bytes = source.files.at(0).bytes();
    std::istringstream text(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    Script script;
    std::string key;
    for (double value = 0; text >> key >> value;) script[key] = value;
    return std::make_unique<Scripted>(std::move(script), source.manifest.stateful);
  }
};

}  // namespace

ISTHMUS_EXPORT_ENGINE([] {
  static ScriptedEngine engine;
  return &engine;
}())
