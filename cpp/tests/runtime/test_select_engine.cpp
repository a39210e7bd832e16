#include <doctest/doctest.h>

#include "core/runtime/select_engine.h"
#include "isthmus/bundle.h"
#include "isthmus/error.h"
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
