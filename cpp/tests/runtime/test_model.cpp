#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"
#include "isthmus/model.h"
#include "isthmus/verify.h"
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

/// A bundle of two artifacts. In its tuning.json the second is the fastest.
struct Tuned : Fixture {
  nlohmann::json ranking = nlohmann::json::array();
  nlohmann::json tuning;

  Tuned() {
    manifest["artifacts"].push_back(manifest["artifacts"][0]);
    manifest["artifacts"][1]["name"] = "fake-second";
    write_manifest(root, manifest);
    for (const char* artifact : {"fake-second", "fake-cpu"})
      ranking.push_back({{"artifact", artifact},
                         {"engine", "fake"},
                         {"threads", 1},
                         {"sha256", manifest["artifacts"][0]["files"][0]["sha256"]}});
    tuning = {{"format", "isthmus-tuning"},
              {"format_version", 1},
              {"machines",
               {{{"machine", machine_key(this_machine())},
                 {"device", "cpu"},
                 {"created", "2026-02-01T12:00:00Z"},
                 {"ranking", ranking}}}}};
  }

  void chosen(const LoadOptions& changed, const std::string& artifact, const char* reason) {
    write_text(root / "tuning.json", tuning.dump());
    const Model loaded = Model::load(root, changed);
    CHECK(loaded.artifact().name == artifact);
    CHECK_MESSAGE(loaded.load_report().chosen.find(reason) != std::string::npos,
                  loaded.load_report().chosen);
  }
};

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

TEST_CASE_FIXTURE(Fixture, "the load is reported, with the warm-up") {
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

  // The notes have what the engine did in the warm-up.
  const auto prepared = [](const LoadReport& load) {
    return std::count(load.notes.begin(), load.notes.end(), "prepared for 1 calls");
  };
  CHECK(prepared(report) == 1);
  CHECK(prepared(Model::load(root, cold).load_report()) == 0);
}

TEST_CASE_FIXTURE(Fixture, "a warm-up in the background completes the report") {
  CHECK(model.ready());
  LoadOptions early = options();
  early.warmup_in_background = true;
  const Model loaded = Model::load(root, early);
  CHECK(loaded.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
  loaded.wait_until_ready();
  CHECK(loaded.ready());
  REQUIRE(loaded.load_report().warmup.size() == 1);
  CHECK(loaded.load_report().warmup[0].calls >= 2);
  CHECK(loaded.load_report().total_ms > 0);
}

TEST_CASE_FIXTURE(Fixture, "a bad call does not reach the engine, and the next call works") {
  const auto before = model.call("count", {})["n"].item<std::int64_t>();
  CHECK_THROWS_AS(model.run({{"x", Tensor::copy_of({1.0f}, {1, 1})}}), InvalidInput);
  CHECK_THROWS_AS(model.run({{"z", Tensor::copy_of({1.0f, 2.0f}, {1, 2})}}), InvalidInput);
  std::vector<Tensor> none;
  CHECK_THROWS_AS(model.run_ordered(none), InvalidInput);
  CHECK(model.call("count", {})["n"].item<std::int64_t>() == before);
  CHECK(model.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
}

TEST_CASE_FIXTURE(Fixture, "an error of the engine is reported, and the next call works") {
  CHECK_THROWS_WITH_AS(model.run(pair(-1, 0)), doctest::Contains("asked to fail"), ExecutionError);
  CHECK_THROWS_WITH_AS(model.run(pair(-2, 0)), doctest::Contains("int64"), ExecutionError);
  RunOptions unchecked;
  unchecked.check_outputs = false;
  CHECK(model.run(pair(-2, 0), unchecked)["y"].dtype() == DType::kInt64);
  CHECK_THROWS_WITH_AS(model.run(pair(-5, 0), unchecked), doctest::Contains("gave 2 outputs"),
                       ExecutionError);
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

TEST_CASE_FIXTURE(Stateful, "each session has its own state, fresh as after the load") {
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

TEST_CASE_FIXTURE(Fixture, "options that cannot be met are refused by name") {
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

TEST_CASE_FIXTURE(Fixture, "an artifact that needs native trust is not selected without it") {
  manifest["artifacts"][0]["trust"] = "native";
  write_manifest(root, manifest);
  load_refused<BundleError>(options(), "native");
  LoadOptions trusting = options();
  trusting.trust = Trust::kNative;
  CHECK(Model::load(root, trusting).run(pair(1, 2))["y"].data_as<float>()[0] == 2);
}

TEST_CASE_FIXTURE(Tuned, "the artifact that was measured to be the fastest is selected") {
  CHECK(Model::load(root, options()).artifact().name == "fake-cpu");  // nothing was measured
  chosen(options(), "fake-second", "the fastest of 2");
  CHECK(Model::load(root, options()).load_report().threads == 1);
}

TEST_CASE_FIXTURE(Tuned, "the caller's options precede the measurements") {
  LoadOptions asked = options();
  asked.artifact = "fake-cpu";
  chosen(asked, "fake-cpu", "asked for");
  asked = options();
  asked.engine = "fake";
  chosen(asked, "fake-cpu", "asked for");
  asked = options();
  asked.threads = 2;
  write_text(root / "tuning.json", tuning.dump());
  CHECK(Model::load(root, asked).load_report().threads == 2);
}

TEST_CASE_FIXTURE(
    Tuned, "the next fastest is selected when the fastest cannot run, and the report says so") {
  manifest["artifacts"][1]["trust"] = "native";
  write_manifest(root, manifest);
  chosen(options(), "fake-cpu", "number 2 of 2");
}

TEST_CASE_FIXTURE(Tuned, "a tuning that does not fit is not used, and the reason is reported") {
  const nlohmann::json good = tuning;
  const auto not_used = [&](const char* reason) {
    chosen(options(), "fake-cpu", reason);
    tuning = good;
  };
  auto& machine = tuning["machines"][0];
  machine["machine"] = "another";
  not_used("other machines");
  tuning["machines"][0]["device"] = "cuda";
  not_used("other machines");
  tuning["machines"][0]["ranking"][0]["sha256"] = std::string(64, '0');
  not_used("has changed since");
  tuning["machines"][0]["ranking"][0]["artifact"] = "gone";
  not_used("no longer has");
  tuning["format_version"] = 2;
  not_used("another isthmus");
  tuning["machines"][0]["ranking"][0]["threads"] = -1;
  not_used("cannot be read");
  tuning = "no object";
  not_used("cannot be read");
  std::filesystem::remove(root / "tuning.json");
  std::filesystem::create_symlink("nowhere", root / "tuning.json");
  CHECK(Model::load(root, options()).load_report().chosen.find("cannot be read") !=
        std::string::npos);
}

namespace {

/// A bundle whose golden the fake engine does not give, without a verdict.
struct Wrong {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  nlohmann::json manifest = write_bundle(root);

  Wrong() {
    write_safetensors(root / "goldens/batch2.safetensors",
                      {{"0/in/x", Tensor::copy_of({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2})},
                       {"0/out/y", Tensor::copy_of({2.0f, 4.0f, 6.0f, 9.0f}, {2, 2})}});
    manifest["goldens"][0]["file"] = entry(root, "goldens/batch2.safetensors");
    write_manifest(root, manifest);
  }

  void refused(const LoadOptions& changed, const char* word) const {
    CHECK_THROWS_WITH_AS(Model::load(root, changed), doctest::Contains(word), EngineUnavailable);
  }
};

nlohmann::json verdict(bool passed, const char* runtime) {
  return {{"engine", "fake"},
          {"device", "cpu"},
          {"runtime", runtime},
          {"passed", passed},
          {"reason", passed ? "" : "it was planted"}};
}

bool contains(const std::string& text, const char* word) {
  return text.find(word) != std::string::npos;
}

}  // namespace

TEST_CASE("an engine without a verdict is proven at the first load, once") {
  TemporaryFolder folder;
  const auto root = folder.path() / "bundle";
  (void)write_bundle(root);
  CHECK(
      contains(Model::describe_selection(Bundle::open(root), options()), "the first load proves"));
  const Model first = Model::load(root, options());
  CHECK(contains(first.load_report().proof, "proven with fake runtime 1.0 now, on 1 goldens"));
  CHECK(contains(read_text(root / "proofs.json"), "\"passed\": true"));
  const std::string proof = Model::load(root, options()).load_report().proof;
  CHECK_MESSAGE(contains(proof, "on this machine"), proof);
  CHECK(contains(Model::describe_selection(Bundle::open(root), options()), "on this machine"));
  // The calls of the proof are not sessions of the caller.
  LoadOptions recorded = options();
  recorded.record = folder.path() / "calls";
  std::filesystem::remove(root / "proofs.json");
  const Model model = Model::load(root, recorded);
  model.session().run(pair(1, 2));
  bool found = false;
  for (const auto& file : std::filesystem::recursive_directory_iterator(recorded.record))
    if (file.is_regular_file()) found |= contains(read_text(file.path()), "\"session\": 1");
  CHECK(found);
}

TEST_CASE_FIXTURE(Wrong, "an engine that fails on the goldens is refused, by name too") {
  refused(options(), "1 of 1 goldens fail; golden batch2: output y");
  LoadOptions named = options();
  named.engine = "fake";
  refused(named, "on this machine");
  const std::vector<EngineVerdict> verdicts =
      engine_verdicts(Bundle::open(root), "cpu", options().engine_path);
  REQUIRE(verdicts.size() == 1);
  CHECK(verdicts[0].status == "failed");
  CHECK(contains(verdicts[0].proof.reason, "golden batch2"));
  named.unproven = Unproven::kAllow;
  const Model model = Model::load(root, named);
  CHECK(model.run(pair(1, 2))["y"].data_as<float>()[0] == 2);
  CHECK(contains(model.load_report().proof, "taken although it FAILED"));
  const auto& notes = model.load_report().notes;
  CHECK(std::find(notes.begin(), notes.end(), model.load_report().proof) != notes.end());
  CHECK(parse_unproven(name(Unproven::kRefuse)) == Unproven::kRefuse);
  CHECK_THROWS_AS(parse_unproven("maybe"), InvalidInput);
}

TEST_CASE_FIXTURE(Wrong, "the next candidate is taken in place of one that failed") {
  manifest["artifacts"].push_back(manifest["artifacts"][0]);
  manifest["artifacts"][1]["name"] = "fake-second";
  manifest["artifacts"][1]["tolerances"]["y"]["atol"] = 2.0;
  write_manifest(root, manifest);
  // Its verdict is another one only if the artifact's files are.
  write_text(root / "artifacts/second.bin", "FAKE");
  manifest["artifacts"][1]["files"] = {entry(root, "artifacts/second.bin")};
  write_manifest(root, manifest);
  CHECK(Model::load(root, options()).artifact().name == "fake-second");
  CHECK(Model::load(root, options()).artifact().name == "fake-second");
}

TEST_CASE_FIXTURE(Wrong, "a verdict counts for the runtime version that it was reached with") {
  manifest["artifacts"][0]["proofs"] = {verdict(true, "fake runtime 1.0")};
  write_manifest(root, manifest);
  CHECK(contains(Model::load(root, options()).load_report().proof, "at export"));
  CHECK_FALSE(std::filesystem::exists(root / "proofs.json"));
  LoadOptions optimized = options();
  optimized.optimize = Optimize::kFreeze;
  refused(optimized, "and optimize=freeze");
  manifest["artifacts"][0]["proofs"] = {verdict(true, "fake runtime 0.9")};
  write_manifest(root, manifest);
  refused(options(), "goldens fail");
  // What was seen here comes before what the export says.
  manifest["artifacts"][0]["proofs"] = {verdict(true, "fake runtime 1.0")};
  write_manifest(root, manifest);
  refused(options(), "on this machine");
}

TEST_CASE("unproven=refuse takes what was proven before, and verify proves it") {
  TemporaryFolder folder;
  const auto root = folder.path() / "bundle";
  nlohmann::json manifest = write_bundle(root);
  LoadOptions strict = options();
  strict.unproven = Unproven::kRefuse;
  CHECK_THROWS_WITH_AS(Model::load(root, strict), doctest::Contains("unproven is \"refuse\""),
                       EngineUnavailable);
  LoadOptions any = options();
  any.unproven = Unproven::kAllow;
  const Model model = Model::load(root, any);
  CHECK(contains(model.load_report().proof, "not proven"));
  CHECK(remember(model, verify(model)).empty());
  CHECK(contains(Model::load(root, strict).load_report().proof, "on this machine"));
  manifest["artifacts"][0]["proofs"] = {verdict(false, "fake runtime 1.0")};
  std::filesystem::remove(root / "proofs.json");
  write_manifest(root, manifest);
  CHECK_THROWS_WITH_AS(Model::load(root, options()), doctest::Contains("it was planted"),
                       EngineUnavailable);
}

TEST_CASE("a folder that cannot be written costs a note, and a damaged file too") {
  TemporaryFolder folder;
  const auto root = folder.path() / "bundle";
  (void)write_bundle(root);
  const auto noted = [&](const char* word) {
    const auto notes = Model::load(root, options()).load_report().notes;
    return std::any_of(notes.begin(), notes.end(),
                       [&](const std::string& note) { return contains(note, word); });
  };
  std::filesystem::create_directories(root / "proofs.json/full");
  CHECK(noted("cannot be written"));
  std::filesystem::remove_all(root / "proofs.json");
  write_text(root / "proofs.json", "{\"format\": \"isthmus-proofs\",");
  CHECK(noted("cannot be read"));
  CHECK_FALSE(noted("cannot be read"));  // it was replaced
}

TEST_CASE("without goldens an engine is taken when it is named or the only one") {
  TemporaryFolder folder;
  const auto root = folder.path() / "bundle";
  nlohmann::json manifest = write_bundle(root);
  manifest["goldens"] = nlohmann::json::array();
  manifest["warmup"] = nlohmann::json::array();
  write_manifest(root, manifest);
  CHECK(contains(Model::load(root, options()).load_report().proof, "no goldens"));
  manifest["artifacts"].push_back(manifest["artifacts"][0]);
  manifest["artifacts"][1]["name"] = "fake-second";
  write_manifest(root, manifest);
  CHECK_THROWS_WITH_AS(Model::load(root, options()), doctest::Contains("ask for it by name"),
                       EngineUnavailable);
  LoadOptions named = options();
  named.engine = "fake";
  CHECK(Model::load(root, named).artifact().name == "fake-cpu");
}

TEST_CASE_FIXTURE(Fixture, "a timeout is refused where the engine cannot stop a call") {
  RunOptions timed;
  timed.timeout = 1;
  CHECK_FALSE(model.can_stop());
  CHECK_THROWS_WITH_AS(model.run(pair(1, 2), timed), doctest::Contains("cannot stop a call"),
                       InvalidInput);
  timed.timeout = -1;
  CHECK_THROWS_WITH_AS(model.run(pair(1, 2), timed), doctest::Contains("timeout -1"), InvalidInput);
}

TEST_CASE("an engine in another folder is in the registry") {
  const std::vector<std::filesystem::path> outside{FAKE_ENGINE_PATH};
  const auto names = engine_names(outside);
  CHECK(std::find(names.begin(), names.end(), "fake") != names.end());
  CHECK(open_engine("fake", outside).info().runtime == "fake runtime 1.0");
  const std::vector<std::filesystem::path> mistyped{std::string(FAKE_ENGINE_PATH) + "x"};
  CHECK_THROWS_WITH_AS(engine_names(mistyped), doctest::Contains("there is no folder"),
                       InvalidInput);
  CHECK_THROWS_AS(open_engine("fake", mistyped), InvalidInput);
}

namespace {

/// A bundle whose engine is not proven for NaN and for numbers beyond 100 at export, and a second
/// artifact that is proven for all values.
struct Limited : Fixture {
  void write(const nlohmann::json& values, const nlohmann::json& unproven) {
    manifest["artifacts"][0]["proofs"] = {{{"engine", "fake"},
                                           {"device", "cpu"},
                                           {"runtime", "fake runtime 1.0"},
                                           {"passed", true},
                                           {"values", values},
                                           {"unproven", unproven}},
                                          {{"engine", "other"},
                                           {"device", "cpu"},
                                           {"runtime", "other runtime 1.0"},
                                           {"passed", true}}};
    write_manifest(root, manifest);
    std::filesystem::remove(root / "proofs.json");  // of the fixture's load
  }
};

}  // namespace

TEST_CASE_FIXTURE(Limited, "values on which the engine is not proven are refused unless allowed") {
  const float nan = std::nanf("");
  write({{"x", {{"min", -100}, {"max", 100}}}}, {{"x", {"nan", "a later kind"}}});
  const Model limited = Model::load(root, options());
  CHECK(limited.run(pair(1, -100))["y"].data_as<float>()[1] == -200);
  CHECK_THROWS_WITH_AS(limited.run(pair(1, nan)), doctest::Contains("NaN at [0, 1]"), InvalidInput);
  CHECK_THROWS_WITH_AS(limited.run(pair(1, nan)),
                       doctest::Contains("use other, or load with specials=allow"), InvalidInput);
  CHECK_THROWS_WITH_AS(limited.run(pair(101, 1)), doctest::Contains("beyond 100"), InvalidInput);
  Session session = limited.session();
  CHECK_THROWS_AS(session.run(pair(1, nan)), InvalidInput);
  std::vector<Tensor> inputs{Tensor::copy_of({1.0f, nan}, {1, 2})};
  CHECK_THROWS_AS(limited.run_ordered(inputs), InvalidInput);
  CHECK(limited.signature().inputs[0].limit->engine == "fake");
  const auto& notes = limited.load_report().notes;
  CHECK(std::any_of(notes.begin(), notes.end(), [](const std::string& note) {
    return note.find("fake is not proven for NaN, a later kind in \"x\"") == 0;
  }));

  LoadOptions allowed = options();
  allowed.specials = Specials::kAllow;
  const Model free = Model::load(root, allowed);
  CHECK(std::isnan(free.run(pair(1, nan))["y"].data_as<float>()[1]));
  CHECK(free.run(pair(101, 1))["y"].data_as<float>()[0] == 202);
  CHECK(parse_specials(name(Specials::kRefuse)) == Specials::kRefuse);
  CHECK_THROWS_AS(parse_specials("maybe"), InvalidInput);
}

TEST_CASE_FIXTURE(Limited, "the first load on a machine tries the special values too") {
  const auto special = [&](const std::string& golden, const char* kind, float x, float y) {
    const std::string path = "goldens/" + golden + ".safetensors";
    write_safetensors(root / path, {{"0/in/x", Tensor::copy_of({x, 1.0f}, {1, 2})},
                                    {"0/out/y", Tensor::copy_of({y, 2.0f}, {1, 2})}});
    return nlohmann::json{{"name", golden},
                          {"file", entry(root, path)},
                          {"dims", {{"batch", 1}}},
                          {"steps", {{{"method", "forward"}}}},
                          {"special", {{"x", kind}}}};
  };
  const float infinity = std::numeric_limits<float>::infinity();
  manifest["specials"] = {special("wrong", "nan", std::nanf(""), 7),
                          special("right", "inf", infinity, infinity),
                          special("large", "magnitude", 1000, 3)};
  write_manifest(root, manifest);
  const Model limited = Model::load(root, options());
  CHECK_THROWS_WITH_AS(limited.run(pair(1, std::nanf(""))),
                       doctest::Contains("for NaN on this machine"), InvalidInput);
  CHECK(std::isinf(limited.run(pair(1, infinity))["y"].data_as<float>()[1]));
  // The golden of this bundle goes up to 4.
  CHECK_THROWS_WITH_AS(limited.run(pair(1, 5)), doctest::Contains("beyond 4"), InvalidInput);
  // The verdict is remembered.
  CHECK_THROWS_AS(Model::load(root, options()).run(pair(1, std::nanf(""))), InvalidInput);
  manifest["specials"][0]["special"] = {{"z", "nan"}};
  write_manifest(root, manifest);
  load_refused<BundleError>(options(), "specials[0].special");
}
