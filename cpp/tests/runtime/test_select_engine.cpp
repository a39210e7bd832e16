#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/runtime/select_engine.h"
#include "isthmus/bundle.h"
#include "isthmus/error.h"
#include "isthmus/model.h"
#include "isthmus/verify.h"
#include "tests/bundle_writer.h"

using namespace isthmus;
using namespace isthmus::testing;

namespace {

/// A bundle whose first artifact has a format that no engine runs.
struct Fixture {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  nlohmann::json json = write_bundle(root);

  Fixture() {
    nlohmann::json foreign = json["artifacts"][0];
    foreign["name"] = "foreign-cpu";
    foreign["format"] = "foreign";
    json["artifacts"].insert(json["artifacts"].begin(), foreign);
    write_manifest(root, json);
  }

  [[nodiscard]] LoadOptions options() const {
    LoadOptions result;
    result.engine_path = {FAKE_ENGINE_PATH};
    return result;
  }
};

}  // namespace

TEST_CASE_FIXTURE(
    Fixture,
    "the artifact that is read ahead is the one that is selected, with a named engine too") {
  const Bundle bundle = Bundle::open(root);
  for (const char* engine : {"auto", "fake"}) {
    LoadOptions asked = options();
    asked.engine = engine;
    const Artifact* likely = likely_artifact(bundle.manifest(), asked, {});
    REQUIRE(likely != nullptr);
    CHECK(likely->name == "fake-cpu");
    CHECK(select_engine(bundle.manifest(), asked, {}).artifact == likely);
  }
}

TEST_CASE_FIXTURE(Fixture, "nothing is read ahead when no artifact can be selected") {
  const Bundle bundle = Bundle::open(root);
  LoadOptions asked = options();
  asked.artifact = "foreign-cpu";
  CHECK(likely_artifact(bundle.manifest(), asked, {}) == nullptr);
  CHECK_THROWS_AS(select_engine(bundle.manifest(), asked, {}), EngineUnavailable);
  asked = options();
  asked.engine = "nonesuch";
  CHECK(likely_artifact(bundle.manifest(), asked, {}) == nullptr);
  asked = options();
  asked.trust = Trust::kData;
  CHECK(likely_artifact(bundle.manifest(), asked, {}) == nullptr);
}

TEST_CASE_FIXTURE(Fixture, "full precision precedes reduced precision in any order") {
  for (auto& artifact : json["artifacts"]) artifact["format"] = "fake";
  json["artifacts"][0]["precision"] = "bf16";
  write_manifest(root, json);
  const Bundle bundle = Bundle::open(root);
  CHECK(select_engine(bundle.manifest(), options(), {}).artifact->name == "fake-cpu");
  CHECK(likely_artifact(bundle.manifest(), options(), {})->name == "fake-cpu");
}

namespace {

/// Both artifacts run, and the first one does not serve all sizes of the batch.
struct FewerSizes : Fixture {
  FewerSizes() {
    for (auto& artifact : json["artifacts"]) artifact["format"] = "fake";
    json["artifacts"][0]["sizes"] = {{"batch", {{"min", 3}, {"max", 5}, {"sizes", {3, 5}}}}};
    write_manifest(root, json);
  }

  static Tensor batch_of(std::int64_t size) {
    return Tensor::copy_of(std::vector<float>(static_cast<std::size_t>(size) * 2, 1.0F), {size, 2});
  }
};

}  // namespace

TEST_CASE_FIXTURE(FewerSizes, "an artifact that serves all sizes precedes one that does not") {
  const Bundle bundle = Bundle::open(root);
  CHECK(select_engine(bundle.manifest(), options(), {}).artifact->name == "fake-cpu");
  CHECK(likely_artifact(bundle.manifest(), options(), {})->name == "fake-cpu");
  LoadOptions named = options();
  named.artifact = "foreign-cpu";
  CHECK(select_engine(bundle.manifest(), named, {}).artifact->name == "foreign-cpu");
  // A measured ranking does not change that.
  Tuning tuning;
  tuning.ranking = {{.artifact = "foreign-cpu", .engine = "fake", .threads = 1},
                    {.artifact = "fake-cpu", .engine = "fake", .threads = 1}};
  CHECK(select_engine(bundle.manifest(), options(), {}, tuning).artifact->name == "fake-cpu");
  // It is taken where nothing of the same precision serves more.
  json["artifacts"][1]["precision"] = "bf16";
  write_manifest(root, json);
  CHECK(select_engine(Bundle::open(root).manifest(), options(), {}).artifact->name ==
        "foreign-cpu");
}

TEST_CASE_FIXTURE(FewerSizes, "sizes that the artifact does not serve are refused") {
  LoadOptions named = options();
  named.artifact = "foreign-cpu";
  named.unproven = Unproven::kAllow;
  const Model model = Model::load(root, named);
  CHECK(model.run({{"x", batch_of(3)}})["y"].shape() == Shape{3, 2});
  for (const std::int64_t size : {1, 2, 4, 6}) {
    CHECK_THROWS_WITH_AS(model.run({{"x", batch_of(size)}}),
                         doctest::Contains("outside its range 3 or 5: the artifact "
                                           "\"foreign-cpu\" serves these sizes only; load the "
                                           "artifact \"fake-cpu\" for others"),
                         InvalidInput);
  }
  CHECK(model.signature().dims.at("batch").sizes.size() == 2);
  const auto& notes = model.load_report().notes;
  CHECK(std::any_of(notes.begin(), notes.end(), [](const std::string& note) {
    return note.find("foreign-cpu serves 3 or 5 of \"batch\" only") == 0;
  }));
  // The bundle's golden has a batch of 2, so that nothing proves this artifact.
  CHECK(verify(model).goldens.empty());
  CHECK_FALSE(verify(model).passed());
  CHECK(verify(Model::load(root, options())).goldens.size() == 1);
}

TEST_CASE_FIXTURE(FewerSizes, "sizes of a dimension that is not there are refused") {
  json["artifacts"][0]["sizes"] = {{"width", {{"min", 2}, {"max", 5}}}};
  write_manifest(root, json);
  CHECK_THROWS_WITH_AS(Bundle::open(root), doctest::Contains("artifacts[0].sizes.width"),
                       BundleError);
}
