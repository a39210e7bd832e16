#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "isthmus/error.h"
#include "isthmus/model.h"
#include "tests/bundle_writer.h"

using namespace isthmus;
using namespace isthmus::testing;

namespace {

LoadOptions options() {
  LoadOptions result;
  result.engine_path = {FAKE_ENGINE_PATH};
  return result;
}

struct Fixture {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  nlohmann::json manifest = write_bundle(root);
  Model model = Model::load(root, options());

  template <typename E>
  void load_refused(const LoadOptions& changed, const char* word) const {
    CHECK_THROWS_WITH_AS(Model::load(root, changed), doctest::Contains(word), E);
  }
};

struct Stateful {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  nlohmann::json manifest = write_bundle(root, /*stateful=*/true);
  Model model = Model::load(root, options());
};

Inputs pair(float a, float b) {
  return {{"x", Tensor::copy_of({a, b}, {1, 2})}};
}

std::int64_t count(Session& session) {
  return session.call("count", {})["n"].item<std::int64_t>();
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a model runs by name and in order") {
  const Outputs out = model.run(pair(1, 2));
  CHECK(out["y"].data_as<float>()[1] == 4);
  std::vector<Tensor> inputs{Tensor::copy_of({3.0f, 4.0f}, {1, 2})};
  CHECK(model.run_ordered(inputs)[0].data_as<float>()[0] == 6);
  CHECK(model.methods() == std::vector<std::string>{"forward", "count"});
  CHECK(model.device() == Device{});
  CHECK_FALSE(model.stateful());
  CHECK_THROWS_WITH_AS(model.call("nope", {}), doctest::Contains("count"), InvalidInput);
}

TEST_CASE_FIXTURE(Fixture, "the load is reported, warm-up included") {
  const LoadReport& report = model.load_report();
  CHECK(report.engine == "fake");
  CHECK(report.runtime == "fake runtime 1.0");
  CHECK(report.artifact == "fake-cpu");
  REQUIRE(report.warmup.size() == 1);
  CHECK(report.warmup[0].golden == "batch2");
  CHECK(report.warmup[0].calls >= 2);
  LoadOptions cold = options();
  cold.warmup = false;
  CHECK(Model::load(root, cold).load_report().warmup.empty());
}

TEST_CASE_FIXTURE(Fixture, "a bad call never reaches the engine, and a good one follows") {
  const auto before = model.call("count", {})["n"].item<std::int64_t>();
  CHECK_THROWS_AS(model.run({{"x", Tensor::copy_of({1.0f}, {1, 1})}}), InvalidInput);
  CHECK_THROWS_AS(model.run({{"z", Tensor::copy_of({1.0f, 2.0f}, {1, 2})}}), InvalidInput);
  std::vector<Tensor> none;
  CHECK_THROWS_AS(model.run_ordered(none), InvalidInput);
  CHECK(model.call("count", {})["n"].item<std::int64_t>() == before);
  CHECK(model.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
}

TEST_CASE_FIXTURE(Fixture, "an engine that fails is told, and serves the next call") {
  CHECK_THROWS_WITH_AS(model.run(pair(-1, 0)), doctest::Contains("asked to fail"), ExecutionError);
  CHECK_THROWS_WITH_AS(model.run(pair(-2, 0)), doctest::Contains("int64"), ExecutionError);
  RunOptions unchecked;
  unchecked.check_outputs = false;
  CHECK(model.run(pair(-2, 0), unchecked)["y"].dtype() == DType::kInt64);
  CHECK(model.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
}

TEST_CASE_FIXTURE(Fixture, "many threads at once get their own answers") {
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([this, t, &wrong] {
      for (int i = 0; i < 200; ++i) {
        const auto value = static_cast<float>(t * 1000 + i);
        const Outputs out = model.run(pair(value, value + 1));
        if (out["y"].data_as<float>()[0] != 2 * value) ++wrong;
      }
    });
  threads.clear();
  CHECK(wrong == 0);
}

TEST_CASE_FIXTURE(Stateful, "each session has a state of its own, fresh as after load") {
  Session a = model.session();
  Session b = model.session();
  CHECK(count(a) == 0);
  a.run(pair(1, 2));
  a.run(pair(1, 2));
  b.run(pair(1, 2));
  CHECK(count(a) == 2);
  CHECK(count(b) == 1);
  CHECK(model.call("count", {})["n"].item<std::int64_t>() == 0);
}

TEST_CASE_FIXTURE(Fixture, "what cannot be had is refused by name") {
  LoadOptions changed = options();
  changed.engine = "nonesuch";
  load_refused<EngineUnavailable>(changed, "nonesuch");
  changed = options();
  changed.artifact = "nonesuch";
  load_refused<InvalidInput>(changed, "fake-cpu");
  changed = options();
  changed.device = "gpu";
  load_refused<InvalidInput>(changed, "gpu");
  changed = options();
  changed.device = "cuda";
  load_refused<DeviceUnavailable>(changed, "cuda");
  changed = options();
  changed.threads = -1;
  load_refused<InvalidInput>(changed, "threads");
  changed = options();
  changed.trust = Trust::kData;
  load_refused<BundleError>(changed, "trust");
}

TEST_CASE_FIXTURE(Fixture, "an artifact that needs native trust is passed over without it") {
  manifest["artifacts"][0]["trust"] = "native";
  write_manifest(root, manifest);
  load_refused<BundleError>(options(), "native");
  LoadOptions trusting = options();
  trusting.trust = Trust::kNative;
  CHECK(Model::load(root, trusting).run(pair(1, 2))["y"].data_as<float>()[0] == 2);
}
