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

TEST_CASE_FIXTURE(Fixture, "a folder that is not a bundle is refused") {
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
  changed = manifest;
  changed["methods"][0]["inputs"][0]["values"] = {{"min", 0}, {"max", 9}};
  refused_with(changed, "a tensor of integers");
  changed["methods"][0]["inputs"][0]["dtype"] = "int64";
  changed["methods"][0]["inputs"][0]["values"]["max"] = -1;
  refused_with(changed, "values.max");
  write_text(root / "manifest.json", "{\"format\": \"isthmus-bundle\",");
  refused("manifest.json");
  write_text(root / "manifest.json", std::string(17 << 20, ' '));
  refused("manifest.json");
}

TEST_CASE_FIXTURE(Fixture, "sizes that follow from others are read, and damaged ones are refused") {
  manifest["dims"]["rows"] = {{"min", 0}, {"max", 8}, {"sizes", {0, 4, 8}}};
  auto& forward = manifest["methods"][0];
  forward["inputs"][0]["shape"] = {"batch", "16 * rows"};
  forward["outputs"][0]["shape"] = {"batch + rows", nullptr};
  write_manifest(root, manifest);
  const Signature signature = Bundle::open(root).signature();
  CHECK(signature.describe() ==
        "forward(x: float32[batch, 16 * rows]) -> (y: float32[batch + rows, ?])");
  CHECK(signature.dims.at("rows").sizes == std::vector<std::int64_t>{0, 4, 8});
  CHECK((*signature.inputs[0].shape)[1].expression != nullptr);
  CHECK((*signature.inputs[0].shape)[0].expression == nullptr);
  json changed = manifest;
  changed["methods"][0]["outputs"][0]["shape"][0] = "batch + columns";
  refused_with(changed, "\"dims\" lists");
  changed["methods"][0]["outputs"][0]["shape"][0] = "batch * rows";
  refused_with(changed, "constant factor");
  changed = manifest;
  changed["dims"]["rows"]["sizes"] = {4, 0, 8};
  refused_with(changed, "sizes[1]");
  changed = manifest;
  changed["methods"][0]["inputs"][0]["dtype"] = "int64";
  changed["methods"][0]["inputs"][0]["values"] = {{"min", 0}, {"max", "rows - 1"}};
  write_manifest(root, changed);
  CHECK(Bundle::open(root).signature().inputs[0].values->max_expression != nullptr);
  changed["methods"][0]["inputs"][0]["values"]["max"] = "columns - 1";
  refused_with(changed, "\"dims\" lists");
}

TEST_CASE_FIXTURE(Fixture, "the verdicts of engines are read, and damaged ones are refused") {
  CHECK(Bundle::open(root).manifest().artifacts[0].proofs.empty());
  json& artifact = manifest["artifacts"][0];
  artifact["proofs"] = {{{"engine", "fake"},
                         {"device", "cpu"},
                         {"runtime", "fake runtime 1.0"},
                         {"passed", false},
                         {"reason", "it is fake"},
                         {"values", {{"x", {{"min", -1}, {"max", 9}}}}},
                         {"unproven", {{"x", {"nan", "a later kind"}}}}}};
  write_manifest(root, manifest);
  const EngineProof proof = Bundle::open(root).manifest().artifacts[0].proofs.at(0);
  CHECK(proof.engine == "fake");
  CHECK(proof.runtime == "fake runtime 1.0");
  CHECK_FALSE(proof.passed);
  CHECK(proof.reason == "it is fake");
  CHECK(proof.values.at("x").max == 9);
  CHECK(proof.unproven.at("x").size() == 2);
  json changed = manifest;
  changed["artifacts"][0]["proofs"][0].erase("passed");
  refused_with(changed, "proofs[0]");
  changed = manifest;
  changed["artifacts"][0]["proofs"][0]["values"] = {{"z", {{"min", 0}, {"max", 9}}}};
  refused_with(changed, "the name of an input");
  changed = manifest;
  changed["artifacts"][0]["proofs"][0]["device"] = "abacus";
  refused_with(changed, "abacus");
}

TEST_CASE_FIXTURE(Fixture, "no path leads out of the bundle") {
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

TEST_CASE_FIXTURE(Fixture, "a changed or missing file is refused by name") {
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

TEST_CASE_FIXTURE(Fixture, "a golden with unexpected keys is refused") {
  write_safetensors(root / "goldens/batch2.safetensors",
                    {{"7/in/x", Tensor::copy_of({1.0f}, {1})}});
  manifest["goldens"][0]["file"] = entry(root, "goldens/batch2.safetensors");
  write_manifest(root, manifest);
  const Bundle bundle = Bundle::open(root);
  CHECK_THROWS_AS(bundle.golden(bundle.manifest().goldens[0]), BundleError);
}

TEST_CASE_FIXTURE(Fixture, "a complex error for a real output is refused") {
  const Tensor pair = Tensor::copy_of({1.0F, 2.0F, 3.0F, 4.0F}, {2, 2});
  write_safetensors(root / "goldens/batch2.safetensors",
                    {{"0/in/x", pair},
                     {"0/out/y", pair},
                     {"0/error/y", Tensor::empty(DType::kComplex64, {2, 2})}});
  manifest["goldens"][0]["file"] = entry(root, "goldens/batch2.safetensors");
  write_manifest(root, manifest);
  const Bundle bundle = Bundle::open(root);
  CHECK_THROWS_WITH_AS((void)bundle.golden(bundle.manifest().goldens[0]),
                       doctest::Contains("complex64"), BundleError);
}

namespace {

/// A bundle whose artifact is an archive of code and two tensors, one deflated.
struct ArchiveFixture : Fixture {
  std::filesystem::path file = root / "artifacts/fake.bin";
  const std::string tensor = std::string(40'000, 't');
  std::string content = ZipWriter::write(
      {{.name = "m/code/m.py", .data = "def forward()"},
       {.name = "m/data/0", .data = tensor},
       {.name = "m/data/1", .data = deflated(tensor), .method = 8, .unpacked = tensor},
       {.name = "m/data.pkl", .data = "pickle"}});
  const std::size_t at = content.find(tensor);

  FileEntry listed() {
    write_text(file, content);
    json changed = manifest;
    changed["artifacts"][0]["files"][0] = entry(root, "artifacts/fake.bin");
    write_manifest(root, changed);
    return Bundle::open(root).manifest().artifacts.at(0).files.at(0);
  }

  /// Writes to the file in place.
  void overwrite(std::size_t from, std::size_t count) const {
    std::fstream(file, std::ios::binary | std::ios::in | std::ios::out)
            .seekp(static_cast<std::streamoff>(from))
        << std::string(count, '!');
  }
};

std::string text(const std::shared_ptr<const std::byte[]>& bytes, std::size_t from,
                 std::size_t count) {
  return {reinterpret_cast<const char*>(bytes.get()) + from, count};
}

}  // namespace

TEST_CASE_FIXTURE(ArchiveFixture, "only the tensors of a mapped archive are shared with the file") {
  const FileEntry entry = listed();
  const FileBytes mapped = Bundle::open(root).map_archive(entry);
  CHECK(text(mapped.data, 0, mapped.size) == content);
  CHECK(text(mapped.weights, 0, mapped.size) == content);
  overwrite(0, content.size());
  const std::size_t behind = at + tensor.size();
  CHECK(text(mapped.data, 0, at) == content.substr(0, at));
  CHECK(text(mapped.data, behind, mapped.size - behind) == content.substr(behind));
  CHECK(text(mapped.weights, at, tensor.size()) == std::string(tensor.size(), '!'));
}

TEST_CASE_FIXTURE(ArchiveFixture, "writing to mapped weights does not change the file") {
  const FileBytes mapped = Bundle::open(root).map_archive(listed());
  const_cast<std::byte&>(mapped.weights[at]) = std::byte{'!'};
  CHECK(read_text(file) == content);
}

TEST_CASE_FIXTURE(ArchiveFixture, "a change anywhere in an archive is refused") {
  const FileEntry entry = listed();
  for (const std::size_t place :
       {std::size_t{35}, at, at + 9000, at + tensor.size() - 1, content.size() - 30}) {
    CAPTURE(place);
    write_text(file, content);
    overwrite(place, 1);
    CHECK_THROWS_WITH_AS((void)Bundle::open(root).map_archive(entry),
                         doctest::Contains("content has changed"), BundleError);
  }
}

TEST_CASE_FIXTURE(ArchiveFixture, "a file that is not an archive is read") {
  content = "no archive";
  const FileBytes bytes = Bundle::open(root).map_archive(listed());
  CHECK(bytes.weights == bytes.data);
  CHECK(text(bytes.data, 0, bytes.size) == content);
}

namespace {

/// The archive with a tensor of more than two chunks, each with a digest.
struct LargeFixture : ArchiveFixture {
  LargeFixture() {
    const std::string large(2 * kChunkBytes + 5, 'w');
    content = ZipWriter::write(
        {{.name = "m/data/0", .data = large}, {.name = "m/data.pkl", .data = "pickle"}});
    listed();
    json changed = json::parse(read_text(root / "manifest.json"));
    json& chunks = changed["artifacts"][0]["files"][0]["chunks"];
    for (std::size_t from = 0; from < content.size(); from += kChunkBytes)
      chunks.push_back(detail::sha256_hex(as_bytes(content.substr(from, kChunkBytes))));
    manifest = changed;
    write_manifest(root, manifest);
  }

  [[nodiscard]] const FileEntry& large() {
    bundle = Bundle::open(root);
    return bundle.manifest().artifacts.at(0).files.at(0);
  }

  Bundle bundle = Bundle::open(root);
};

}  // namespace

TEST_CASE_FIXTURE(LargeFixture, "a large file is checked by the digests of its chunks") {
  REQUIRE(large().chunks.size() == 3);
  CHECK(bundle.read(large()).size == content.size());
  const FileBytes mapped = bundle.map(large());
  CHECK_NOTHROW(bundle.verify(large(), mapped));
  CHECK(text(bundle.map_archive(large()).weights, 0, content.size()) == content);
}

TEST_CASE_FIXTURE(LargeFixture, "a changed chunk is reported with its position") {
  overwrite(kChunkBytes + 77, 1);
  const char* const where = "content has changed in bytes 4194304 to 8388608: expected sha256";
  CHECK_THROWS_WITH_AS((void)bundle.read(large()), doctest::Contains(where), BundleError);
  CHECK_THROWS_WITH_AS((void)bundle.map_archive(large()), doctest::Contains(where), BundleError);
  const FileBytes mapped = bundle.map(large());
  CHECK_THROWS_WITH_AS(bundle.verify(large(), mapped), doctest::Contains(where), BundleError);
  CHECK_THROWS_WITH_AS(bundle.verify(large()), doctest::Contains("has changed: "), BundleError);
}

TEST_CASE_FIXTURE(LargeFixture, "a file has as many digests as chunks") {
  json changed = manifest;
  changed["artifacts"][0]["files"][0]["chunks"].erase(0);
  refused_with(changed, "expected 3 digests");
  changed["artifacts"][0]["files"][0]["chunks"].push_back("no digest");
  refused_with(changed, "64 lower-case hex digits");
}
