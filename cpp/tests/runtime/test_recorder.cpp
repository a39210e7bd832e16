#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <thread>
#include <vector>

#include "core/runtime/recorder.h"
#include "isthmus/error.h"
#include "isthmus/model.h"
#include "isthmus/tensor_file.h"
#include "tests/bundle_writer.h"

using namespace isthmus;
using namespace isthmus::testing;

namespace {

Inputs pair(float a, float b) {
  return {{"x", Tensor::copy_of({a, b}, {1, 2})}};
}

struct Record {
  nlohmann::json facts;
  NamedTensors tensors;
};

struct Fixture {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  std::filesystem::path records = folder.path() / "records";

  explicit Fixture(bool stateful = false) { write_bundle(root, stateful); }

  [[nodiscard]] LoadOptions options() const {
    LoadOptions result;
    result.engine_path = {FAKE_ENGINE_PATH};
    result.record = records;
    return result;
  }

  [[nodiscard]] std::vector<std::filesystem::path> files(const std::string& start,
                                                         const std::string& ending) const {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(records)) {
      const std::string name = entry.path().filename();
      if (name.starts_with(start) && name.ends_with(ending)) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  [[nodiscard]] std::vector<Record> calls() const {
    std::vector<Record> result;
    for (std::filesystem::path path : files("2", ".json")) {
      Record record{.facts = nlohmann::json::parse(read_text(path)), .tensors = {}};
      record.tensors = read_tensors(path.replace_extension(".safetensors"));
      result.push_back(std::move(record));
    }
    return result;
  }
};

struct Stateful : Fixture {
  Stateful() : Fixture(true) {}
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "nothing is written without the option") {
  LoadOptions plain = options();
  plain.record.clear();
  const Model model = Model::load(root, plain);
  model.run(pair(1, 2));
  CHECK_FALSE(std::filesystem::exists(records));
}

TEST_CASE_FIXTURE(Fixture,
                  "each call is written with its inputs and outputs, without the warm-up") {
  const Model model = Model::load(root, options());
  REQUIRE(model.load_report().warmup.size() == 1);
  model.run(pair(1, 2));
  std::vector<Tensor> ordered{Tensor::copy_of({3.0F, 4.0F}, {1, 2})};
  model.run_ordered(ordered);
  model.session().run(pair(5, 6));

  const auto recorded = calls();
  REQUIRE(recorded.size() == 3);
  for (std::size_t i = 0; i < recorded.size(); ++i) {
    const auto at = static_cast<float>(2 * i + 1);
    CHECK(recorded[i].tensors.at("0/in/x").data_as<float>()[0] == at);
    CHECK(recorded[i].tensors.at("0/out/y").data_as<float>()[0] == 2 * at);
    CHECK(recorded[i].facts["method"] == "forward");
    CHECK(recorded[i].facts["error"].is_null());
    CHECK(recorded[i].facts["milliseconds"] >= 0);
  }
  CHECK(recorded[0].facts["session"] == 0);
  CHECK(recorded[2].facts["session"] == 1);

  const auto heads = files("record-", ".json");
  REQUIRE(heads.size() == 1);
  const auto head = nlohmann::json::parse(read_text(heads[0]));
  CHECK(head["engine"] == "fake");
  CHECK(head["artifact"] == "fake-cpu");
  CHECK(head["sha256"][0] == entry(root, "artifacts/fake.bin")["sha256"]);
  CHECK(head["bundle"] == std::filesystem::absolute(root).string());
  CHECK(files("", ".tmp").empty());
}

TEST_CASE_FIXTURE(Fixture, "the strides of a view are recorded, and its values are contiguous") {
  const Model model = Model::load(root, options());
  float memory[] = {1, 2, 3, 4};  // column by column
  const Tensor view = Tensor::wrap(memory, DType::kFloat32, {2, 2}, nullptr, {}, {1, 2});
  model.run({{"x", view}});
  const auto recorded = calls();
  REQUIRE(recorded.size() == 1);
  CHECK(recorded[0].facts["inputs"]["x"]["strides"] == std::vector<int>{1, 2});
  CHECK(recorded[0].facts["inputs"]["x"]["dtype"] == "float32");
  CHECK(recorded[0].facts["inputs"]["x"]["device"] == "cpu");
  const float* x = recorded[0].tensors.at("0/in/x").data_as<float>();
  CHECK(std::vector<float>(x, x + 4) == std::vector<float>{1, 3, 2, 4});
}

TEST_CASE_FIXTURE(Fixture, "a refused or failed call is written with its reason") {
  const Model model = Model::load(root, options());
  CHECK_THROWS_AS(model.run({{"x", Tensor::copy_of({1.0, 2.0}, {1, 2})}}), InvalidInput);
  CHECK_THROWS_AS(model.run(pair(-1, 0)), ExecutionError);
  const auto recorded = calls();
  REQUIRE(recorded.size() == 2);
  CHECK(recorded[0].facts["error"].get<std::string>().find("float64") != std::string::npos);
  CHECK(recorded[0].facts["refused"] == true);
  CHECK(recorded[0].tensors.at("0/in/x").dtype() == DType::kFloat64);
  CHECK(recorded[1].facts["refused"] == false);
  CHECK(recorded[1].facts["error"].get<std::string>().find("asked to fail") != std::string::npos);
  CHECK(recorded[1].tensors.find("0/out/y") == nullptr);
}

TEST_CASE_FIXTURE(Fixture, "a call whose outputs cannot be copied is not recorded") {
  const Bundle bundle = Bundle::open(root);
  const Recorder recorder(records, 9, bundle, LoadReport{});
  const auto to_cpu = [](const Tensor&) -> Tensor { throw ExecutionError("the device is gone"); };
  float value = 1;
  const Tensor on_gpu = Tensor::wrap(&value, DType::kFloat32, {1}, nullptr, {DeviceType::kCuda, 0});
  recorder.finish(recorder.start("forward", 0, pair(1, 2), to_cpu), {{"y", on_gpu}}, to_cpu);
  CHECK(calls().empty());
  recorder.finish(recorder.start("forward", 0, pair(1, 2), to_cpu), pair(3, 4), to_cpu);
  CHECK(calls().size() == 1);
}

TEST_CASE_FIXTURE(Fixture, "recording ends at its limit, and calls continue") {
  LoadOptions few = options();
  few.record_limit = 2;
  const Model model = Model::load(root, few);
  for (int i = 0; i < 5; ++i) CHECK(model.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
  CHECK(calls().size() == 2);
  few.record_limit = 0;
  CHECK_THROWS_WITH_AS(Model::load(root, few), doctest::Contains("record_limit"), InvalidInput);
}

TEST_CASE_FIXTURE(Fixture, "two models in one folder have separate records") {
  const Model a = Model::load(root, options());
  const Model b = Model::load(root, options());
  a.run(pair(1, 2));
  b.run(pair(3, 4));
  CHECK(files("record-", ".json").size() == 2);
  CHECK(calls().size() == 2);
}

TEST_CASE_FIXTURE(
    Fixture, "a folder that cannot be written is refused at load, and later does not fail calls") {
  write_text(records, "a file");
  CHECK_THROWS_WITH_AS(Model::load(root, options()), doctest::Contains("record"), InvalidInput);
  std::filesystem::remove(records);
  const Model model = Model::load(root, options());
  std::filesystem::remove_all(records);
  CHECK(model.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
}

TEST_CASE_FIXTURE(Fixture, "calls from many threads are all written, each with its answer") {
  const Model model = Model::load(root, options());
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&model, t] {
      for (int i = 0; i < 10; ++i) model.run(pair(static_cast<float>(100 * t + i), 0));
    });
  threads.clear();
  const auto recorded = calls();
  CHECK(recorded.size() == 40);
  std::map<float, int> seen;
  for (const Record& record : recorded) {
    const float x = record.tensors.at("0/in/x").data_as<float>()[0];
    CHECK(record.tensors.at("0/out/y").data_as<float>()[0] == 2 * x);
    ++seen[x];
  }
  CHECK(seen.size() == 40);
}

TEST_CASE_FIXTURE(Stateful, "the calls of a shared state are numbered in their order") {
  const Model model = Model::load(root, options());
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&model] {
      for (int i = 0; i < 10; ++i) {
        model.run(pair(-3, 2));
        model.call("count", {});
      }
    });
  threads.clear();
  std::int64_t runs = 0;
  for (const Record& record : calls()) {
    if (record.facts["method"] == "forward")
      ++runs;
    else
      CHECK(record.tensors.at("0/out/n").item<std::int64_t>() == runs);
  }
  CHECK(runs == 40);
}
