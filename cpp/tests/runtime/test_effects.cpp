#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "core/runtime/effects.h"
#include "core/tensor/memory.h"
#include "isthmus/batcher.h"
#include "isthmus/error.h"
#include "isthmus/model.h"
#include "isthmus/tensor_file.h"
#include "isthmus/verify.h"
#include "tests/bundle_writer.h"

using namespace isthmus;
using namespace isthmus::testing;

namespace {

using Floats = std::vector<float>;

/// Writes a bundle whose forward adds 1 to its input x.
void write_writing_bundle(const std::filesystem::path& root, float left_in_x = 1) {
  nlohmann::json manifest = write_bundle(root);
  manifest["methods"][0]["writes"] = {"x"};
  manifest["artifacts"][0]["tolerances"]["written/x"] = {{"atol", 1e-6}, {"rtol", 0.0}};
  NamedTensors golden = read_tensors(root / "goldens/batch2.safetensors");
  Tensor after = golden.at("0/in/x").clone();
  for (std::int64_t i = 0; i < after.numel(); ++i) after.data_as<float>()[i] += left_in_x;
  golden.add("0/out/written/x", after);
  write_safetensors(root / "goldens/batch2.safetensors", golden);
  manifest["goldens"][0]["file"] = entry(root, "goldens/batch2.safetensors");
  write_manifest(root, manifest);
}

struct Fixture {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  LoadOptions options;

  explicit Fixture(float left_in_x = 1) {
    write_writing_bundle(root, left_in_x);
    options.engine_path = {FAKE_ENGINE_PATH};
  }
  [[nodiscard]] Model load() const { return Model::load(root, options); }
};

Tensor over(Floats& memory, Shape shape, Shape strides = {}) {
  return Tensor::wrap(memory.data(), DType::kFloat32, std::move(shape), nullptr, {},
                      std::move(strides));
}

class CpuExecutable final : public Executable {
 public:
  std::vector<Tensor> run(std::size_t, std::span<const Tensor>) override { return {}; }
  [[nodiscard]] std::unique_ptr<Executable> fork() const override { return nullptr; }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a call writes the caller's buffer after it has succeeded") {
  const Model model = load();
  CHECK(model.signature().describe().ends_with(", writes x"));
  Floats memory{1, 2};
  const Inputs inputs{{"x", over(memory, {1, 2})}};
  CHECK(model.run(inputs)["y"].data_as<float>()[1] == 4);
  CHECK(memory == Floats{2, 3});
  // The next call gets what this one left.
  CHECK(model.run(inputs)["y"].data_as<float>()[1] == 6);
  CHECK(memory == Floats{3, 4});
  Session session = model.session();
  CHECK(session.run(inputs)["y"].data_as<float>()[1] == 8);
  CHECK(memory == Floats{4, 5});
}

TEST_CASE_FIXTURE(Fixture, "the elements of a view are written, and nothing between them") {
  const Model model = load();
  Floats memory{1, 100, 2, 200};
  std::vector<Tensor> inputs{over(memory, {1, 2}, {4, 2})};
  for (int call = 1; call <= 2; ++call) {
    const auto expected = static_cast<float>(2 * (call + 1));
    CHECK(model.run_ordered(inputs)[0].data_as<float>()[1] == expected);
    CHECK(memory ==
          Floats{1.0F + static_cast<float>(call), 100, 2.0F + static_cast<float>(call), 200});
  }
}

TEST_CASE_FIXTURE(Fixture, "a failed call leaves the buffers as they were") {
  const Model model = load();
  for (const float fault : {-1.0F, -2.0F, -6.0F}) {
    Floats memory{fault, 7};
    CHECK_THROWS_AS(model.run({{"x", over(memory, {1, 2})}}), ExecutionError);
    CHECK(memory == Floats{fault, 7});
  }
}

TEST_CASE_FIXTURE(Fixture, "a buffer that cannot be written is refused before the call") {
  const Model model = load();
  Floats memory{1, 2, 3, 4};
  const auto refused = [&](const Tensor& x, const char* why) {
    CHECK_THROWS_WITH_AS(model.run({{"x", x}}), doctest::Contains(why), InvalidInput);
    CHECK(memory == Floats{1, 2, 3, 4});
  };
  refused(over(memory, {2, 2}).as_read_only(), "read-only");
  refused(over(memory, {2, 2}, {0, 1}), "same memory");
  refused(over(memory, {2, 2}, {1, 1}), "same memory");
}

TEST_CASE_FIXTURE(Fixture,
                  "calls that write inputs are recorded with their values before and after") {
  options.record = folder.path() / "records";
  const Model model = load();
  Floats memory{1, 2};
  (void)model.run({{"x", over(memory, {1, 2})}});
  std::vector<Tensor> ordered{over(memory, {1, 2})};
  (void)model.run_ordered(ordered);
  int calls = 0;
  for (const auto& file : std::filesystem::directory_iterator(options.record)) {
    if (file.path().extension() != ".safetensors") continue;
    const NamedTensors record = read_tensors(file.path());
    CHECK(record["0/out/written/x"].data_as<float>()[0] ==
          record["0/in/x"].data_as<float>()[0] + 1);
    ++calls;
  }
  CHECK(calls == 2);
}

TEST_CASE_FIXTURE(Fixture, "requests of a method that writes inputs cannot be batched") {
  CHECK_THROWS_WITH_AS(Batcher(load(), {}), doctest::Contains("writes its input \"x\""),
                       InvalidInput);
}

TEST_CASE("verify compares the inputs after the call") {
  const Fixture right;
  CHECK(verify(right.load()).passed());
  Fixture wrong(2);
  wrong.options.unproven = Unproven::kAllow;
  const ParityResult result = verify(wrong.load());
  CHECK_FALSE(result.passed());
  REQUIRE(result.goldens[0].outputs.size() == 2);
  CHECK(result.goldens[0].outputs[0].passed);
  CHECK(result.goldens[0].outputs[1].output == "written/x");
  CHECK_FALSE(result.goldens[0].outputs[1].passed);
}

TEST_CASE("a manifest may list only tensors as written, in the order of the inputs") {
  const Fixture fixture;
  nlohmann::json manifest = nlohmann::json::parse(read_text(fixture.root / "manifest.json"));
  const std::vector<nlohmann::json> wrong{{"z"}, {"x", "x"}, {1}};
  for (const nlohmann::json& writes : wrong) {
    manifest["methods"][0]["writes"] = writes;
    write_manifest(fixture.root, manifest);
    CHECK_THROWS_WITH_AS(fixture.load(), doctest::Contains("methods[0].writes"), BundleError);
  }
}

TEST_CASE("outputs share no memory with inputs or each other") {
  TemporaryFolder folder;
  write_bundle(folder.path() / "bundle");
  LoadOptions options;
  options.engine_path = {FAKE_ENGINE_PATH};
  const Model model = Model::load(folder.path() / "bundle", options);
  Tensor x = Tensor::copy_of({-6.0F, 1.0F}, {1, 2});
  const Tensor y = model.run({{"x", x}})["y"];
  x.data_as<float>()[1] = 5;
  CHECK(y.data_as<float>()[1] == 1);

  CpuExecutable executable;
  Floats memory(12);
  std::iota(memory.begin(), memory.end(), 0.0F);
  Floats second = memory;
  const std::vector<Tensor> inputs{over(memory, {3, 4}), Tensor()};
  Tensor middle = Tensor::wrap(second.data() + 4, DType::kFloat32, {4});
  std::vector<Tensor> outputs{over(memory, {3, 4}), over(second, {3, 4}), middle, Tensor(),
                              Tensor::empty(DType::kFloat32, {0, 4})};
  detail::separate_outputs(executable, inputs, outputs);
  CHECK(outputs[0].data() != memory.data());
  CHECK(outputs[0].data_as<float>()[11] == 11);
  CHECK(outputs[1].data() == second.data());  // alone in its memory: not copied
  CHECK(outputs[2].data() != middle.data());
  CHECK(outputs[2].data_as<float>()[0] == 4);
}

TEST_CASE("the memory of two inputs of a call that writes must be apart") {
  Floats memory(8);
  Signature signature;
  signature.inputs = {{.name = "x", .shape = std::nullopt}, {.name = "z", .shape = std::nullopt}};
  signature.writes = {0};
  const auto check = [&](const Tensor& x, const Tensor& z) {
    const std::vector<Tensor> given{x, z};
    return detail::written_buffers(signature, given);
  };
  const Tensor even = over(memory, {4}, {2});
  const Tensor odd = Tensor::wrap(memory.data() + 1, DType::kFloat32, {3}, nullptr, {}, {2});
  CHECK(detail::memory_range(even).meets(detail::memory_range(odd)));
  CHECK(check(even, odd).size() == 1);
  CHECK_THROWS_WITH_AS(check(even, over(memory, {8})), doctest::Contains("shares memory"),
                       InvalidInput);
  CHECK(check(even, Tensor()).size() == 1);
  CHECK_FALSE(check(Tensor(), even)[0].defined());
}
