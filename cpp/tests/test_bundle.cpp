#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "isthmus/bundle.h"
#include "isthmus/error.h"
#include "tests/bundle_writer.h"
#include "tests/zip_writer.h"

using namespace isthmus;
using namespace isthmus::testing;
using nlohmann::json;

namespace {

struct Fixture {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  json manifest = write_bundle(root);

  void refused(const char* word) const {
    CHECK_THROWS_WITH_AS(Bundle::open(root), doctest::Contains(word), BundleError);
  }
  void refused_with(const json& changed, const char* word) const {
    write_manifest(root, changed);
    refused(word);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a good bundle opens") {
  const Bundle bundle = Bundle::open(root);
  CHECK(bundle.manifest().name == "fake");
  CHECK(bundle.signature().inputs.at(0).name == "x");
  CHECK(bundle.signature("count").outputs.at(0).kind == ValueKind::kInteger);
  CHECK(bundle.check_files().empty());
  const auto calls = bundle.golden(bundle.manifest().goldens.at(0));
  REQUIRE(calls.size() == 1);
  CHECK(calls[0].outputs["y"].data_as<float>()[3] == 8);
  CHECK_THROWS_WITH_AS(bundle.signature("nope"), doctest::Contains("count"), InvalidInput);
}

TEST_CASE_FIXTURE(Fixture, "a folder that is no bundle says so") {
  CHECK_THROWS_WITH_AS(Bundle::open(folder.path() / "nowhere"), doctest::Contains("nowhere"),
                       BundleError);
  std::filesystem::remove(root / "manifest.json");
  refused("manifest.json");
}

TEST_CASE_FIXTURE(Fixture, "a damaged or foreign manifest is refused") {
  json changed = manifest;
  changed["format_version"] = 99;
  refused_with(changed, "99");
  changed = manifest;
  changed.erase("methods");
  refused_with(changed, "methods");
  changed = manifest;
  changed["methods"][0]["inputs"][0]["dtype"] = "float13";
  refused_with(changed, "float13");
  changed = manifest;
  changed["methods"][0]["inputs"][0]["shape"] = {"nameless", 2};
  refused_with(changed, "nameless");
  write_text(root / "manifest.json", "{\"format\": \"isthmus-bundle\",");
  refused("manifest.json");
  write_text(root / "manifest.json", std::string(17 << 20, ' '));
  refused("manifest.json");
}

TEST_CASE_FIXTURE(Fixture, "no path leaves the bundle") {
  for (const char* path : {"../secret", "/etc/passwd", "a/../../secret", "a//b", "./a", ""}) {
    CAPTURE(path);
    json changed = manifest;
    changed["artifacts"][0]["files"][0]["path"] = path;
    write_manifest(root, changed);
    CHECK_THROWS_AS(Bundle::open(root), BundleError);
  }
}

TEST_CASE_FIXTURE(Fixture, "nothing is read through a symbolic link") {
  write_text(folder.path() / "secret", "fake");
  std::filesystem::remove(root / "artifacts/fake.bin");
  std::filesystem::create_symlink(folder.path() / "secret", root / "artifacts/fake.bin");
  const Bundle bundle = Bundle::open(root);
  CHECK_THROWS_AS(bundle.read(bundle.manifest().artifacts[0].files[0]), BundleError);
  CHECK(bundle.check_files().size() == 1);
}

TEST_CASE_FIXTURE(Fixture, "a file that is not what was written is refused by name") {
  const auto file = root / "artifacts/fake.bin";
  const auto refuses = [&](const char* word) {
    const Bundle bundle = Bundle::open(root);
    CHECK_THROWS_WITH_AS(bundle.read(bundle.manifest().artifacts[0].files[0]),
                         doctest::Contains(word), BundleError);
    CHECK(bundle.check_files().size() == 1);
  };
  write_text(file, "fak");
  refuses("artifacts/fake.bin");
  write_text(file, "fakf");
  refuses("artifacts/fake.bin");
  std::filesystem::remove(file);
  refuses("artifacts/fake.bin");
}

TEST_CASE_FIXTURE(Fixture, "a golden with foreign keys is refused") {
  write_safetensors(root / "goldens/batch2.safetensors",
                    {{"7/in/x", Tensor::copy_of({1.0f}, {1})}});
  manifest["goldens"][0]["file"] = entry(root, "goldens/batch2.safetensors");
  write_manifest(root, manifest);
  const Bundle bundle = Bundle::open(root);
  CHECK_THROWS_AS(bundle.golden(bundle.manifest().goldens[0]), BundleError);
}

TEST_CASE_FIXTURE(Fixture, "files are told from their content, with what to do") {
  const auto kind = [&](const std::string& name, const std::string& content) {
    write_text(folder.path() / name, content);
    const Sniffed found = sniff(folder.path() / name);
    CHECK_FALSE(found.advice.empty());
    return found.kind;
  };
  CHECK(sniff(root).kind == "bundle");
  CHECK(kind("a.pt", ZipWriter::write({{.name = "m/data.pkl", .data = "x"},
                                       {.name = "m/constants.pkl", .data = "x"},
                                       {.name = "m/code/__torch__.py", .data = "x"},
                                       {.name = "m/version", .data = "10\n"}})) == "torchscript");
  CHECK(kind("b.pt", ZipWriter::write({{.name = "m/data.pkl", .data = "x"},
                                       {.name = "m/data/0", .data = "x"},
                                       {.name = "m/version", .data = "3\n"}})) == "state_dict");
  CHECK(kind("c.pt", "") == "empty");
}
