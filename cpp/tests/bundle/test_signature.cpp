#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "isthmus/error.h"
#include "isthmus/signature.h"

using namespace isthmus;

namespace {

Dim named(std::string name) {
  return {std::move(name), -1};
}
Dim fixed(std::int64_t size) {
  return {"", size};
}

/// x: float32[batch, 4], y: int64[batch], flag: bool, extra: float32 any rank, optional -> float32.
Signature signature() {
  Signature result;
  result.inputs = {
      {"x", ValueKind::kTensor, DType::kFloat32, std::vector<Dim>{named("batch"), fixed(4)}, false},
      {"y", ValueKind::kTensor, DType::kInt64, std::vector<Dim>{named("batch")}, false},
      {"flag", ValueKind::kBoolean, DType::kBool, std::vector<Dim>{}, false},
      {"extra", ValueKind::kTensor, DType::kFloat32, std::nullopt, true}};
  result.outputs = {
      {"z", ValueKind::kTensor, DType::kFloat32, std::vector<Dim>{named("batch"), Dim{}}, false},
      {"more", ValueKind::kTensor, DType::kFloat32, std::vector<Dim>{fixed(2)}, true}};
  result.dims["batch"] = {1, 8};
  return result;
}

Tensor floats(Shape shape) {
  Tensor tensor = Tensor::empty(DType::kFloat32, std::move(shape));
  std::fill_n(tensor.data_as<float>(), tensor.numel(), 1.0f);
  return tensor;
}
Tensor longs(Shape shape) {
  Tensor tensor = Tensor::empty(DType::kInt64, std::move(shape));
  std::fill_n(tensor.data_as<std::int64_t>(), tensor.numel(), 1);
  return tensor;
}

Inputs good() {
  return {{"x", floats({2, 4})}, {"y", longs({2})}, {"flag", Tensor::scalar(true)}};
}

/// Returns `good()` with one value replaced or added.
Inputs with(const std::string& name, const Tensor& value) {
  Inputs result;
  bool replaced = false;
  for (const auto& [key, tensor] : good()) {
    result.add(key, key == name ? value : tensor);
    replaced = replaced || key == name;
  }
  if (!replaced) result.add(name, value);
  return result;
}

void refused(const Inputs& inputs, std::initializer_list<const char*> words) {
  std::string text;
  try {
    check_inputs(signature(), inputs, {});
  } catch (const InvalidInput& error) {
    text = error.what();
  }
  CAPTURE(text);
  REQUIRE_FALSE(text.empty());
  for (const char* word : words) CHECK_MESSAGE(text.find(word) != std::string::npos, word);
}

void output_refused(std::vector<Tensor> outputs, const char* word) {
  const auto inputs = check_inputs(signature(), good(), {});
  CHECK_THROWS_WITH_AS(check_outputs(signature(), inputs, outputs), doctest::Contains(word),
                       ExecutionError);
}

}  // namespace

TEST_CASE("checked inputs are in the signature's order") {
  Inputs shuffled{{"flag", Tensor::scalar(false)}, {"y", longs({3})}, {"x", floats({3, 4})}};
  const auto ordered = check_inputs(signature(), shuffled, {});
  REQUIRE(ordered.size() == 4);
  CHECK(ordered[0].shape() == Shape{3, 4});
  CHECK(ordered[1].dtype() == DType::kInt64);
  CHECK_FALSE(ordered[3].defined());
  CHECK(check_inputs(signature(), with("extra", floats({1, 2, 3})), {})[3].rank() == 3);
}

TEST_CASE("inputs that do not fit are refused with what was expected and given") {
  refused(with("z", floats({1})), {"z", "x"});
  refused({{"x", floats({2, 4})}, {"y", longs({2})}}, {"flag"});
  refused(with("x", Tensor()), {"x"});
  Inputs doubled = good();
  doubled.add("x", floats({2, 4}));
  refused(doubled, {"x"});
  refused(with("x", longs({2, 4})), {"\"x\"", "float32", "int64"});
  refused(with("x", floats({2})), {"\"x\"", "2"});
  refused(with("x", floats({2, 5})), {"\"x\"", "4", "5"});
  refused(with("x", floats({9, 4})), {"\"x\"", "batch", "8", "9"});
  refused(with("x", floats({0, 4})), {"\"x\"", "batch"});
  refused(with("y", longs({3})), {"batch", "2", "3"});
  refused(with("flag", Tensor::scalar(1.0)), {"flag", "bool", "float64"});
  refused(with("flag", Tensor::copy_of({true}, {1})), {"flag"});
  const Tensor far =
      Tensor::wrap(floats({2, 4}).data(), DType::kFloat32, {2, 4}, nullptr, {DeviceType::kCuda, 0});
  refused(with("x", far), {"\"x\"", "cuda:0", "cpu"});
}

TEST_CASE("the size of every named dimension is checked, however many there are") {
  constexpr std::size_t kDims = 40;
  std::vector<Dim> dims;
  for (std::size_t i = 0; i < kDims; ++i) dims.push_back(named("d" + std::to_string(i)));
  Signature many;
  for (const char* name : {"a", "b"})
    many.inputs.push_back({name, ValueKind::kTensor, DType::kFloat32, dims, false});
  Shape shape(kDims, 1);
  const Tensor first = floats(shape);
  CHECK_NOTHROW(check_inputs(many, {{"a", first}, {"b", first}}, {}));
  shape.back() = 2;
  CHECK_THROWS_WITH_AS(check_inputs(many, {{"a", first}, {"b", floats(shape)}}, {}),
                       doctest::Contains("dimension \"d39\" (axis 39) is 2, but it is 1 in input "
                                         "\"a\""),
                       InvalidInput);
}

TEST_CASE("a value outside its range is refused with its position") {
  const auto check = [](DType dtype, auto data, ValueRange range) {
    Signature signature;
    signature.inputs = {{.name = "ids",
                         .kind = ValueKind::kTensor,
                         .dtype = dtype,
                         .shape = std::nullopt,
                         .values = range}};
    check_inputs(signature, {{"ids", Tensor::wrap(data.data(), dtype, {2, 3}, nullptr)}}, {});
  };
  using Longs = std::array<std::int64_t, 6>;
  const ValueRange ids{0, 30521};
  CHECK_NOTHROW(check(DType::kInt64, Longs{0, 1, 2, 3, 4, 30521}, ids));
  CHECK_THROWS_WITH_AS(check(DType::kInt64, Longs{0, 1, 2, 3, 30522, 5}, ids),
                       doctest::Contains("input \"ids\": expected values 0 to 30521, got 30522 at "
                                         "[1, 1] of int64[2, 3] on cpu"),
                       InvalidInput);
  CHECK_THROWS_WITH_AS(check(DType::kInt64, Longs{0, 1, -1, 3, 4, 5}, ids),
                       doctest::Contains("got -1 at [0, 2]"), InvalidInput);
  CHECK_THROWS_AS(check(DType::kInt64, Longs{INT64_MIN, 0, 0, 0, 0, 0}, ids), InvalidInput);
  CHECK_THROWS_AS(check(DType::kInt64, Longs{0, 0, 0, 0, 0, INT64_MAX}, ids), InvalidInput);
  CHECK_THROWS_AS(check(DType::kInt32, std::array<std::int32_t, 6>{8}, {0, 7}), InvalidInput);
  CHECK_THROWS_AS(check(DType::kInt16, std::array<std::int16_t, 6>{-9}, {-8, 7}), InvalidInput);
  CHECK_THROWS_AS(check(DType::kInt8, std::array<std::int8_t, 6>{8}, {0, 7}), InvalidInput);
  CHECK_THROWS_AS(check(DType::kUInt8, std::array<std::uint8_t, 6>{255}, {0, 7}), InvalidInput);
  CHECK_NOTHROW(check(DType::kInt16, std::array<std::int16_t, 6>{-8, 7}, {-8, 7}));
  CHECK_THROWS_AS(check(DType::kUInt16, std::array<std::uint16_t, 6>{8}, {0, 7}), InvalidInput);
  CHECK_THROWS_AS(check(DType::kUInt32, std::array<std::uint32_t, 6>{8}, {0, 7}), InvalidInput);
  using Unsigned = std::array<std::uint64_t, 6>;
  CHECK_NOTHROW(check(DType::kUInt64, Unsigned{7}, {-1, 7}));
  CHECK_THROWS_AS(check(DType::kUInt64, Unsigned{8}, {0, 7}), InvalidInput);
  CHECK_THROWS_AS(check(DType::kUInt64, Unsigned{UINT64_MAX}, {-1, 7}), InvalidInput);
}

TEST_CASE("a transposed input is made contiguous") {
  float data[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  const Tensor turned = Tensor::wrap(data, DType::kFloat32, {2, 4}, nullptr, {}, {1, 2});
  const auto ordered = check_inputs(signature(), with("x", turned), {});
  CHECK(ordered[0].is_contiguous());
  CHECK(ordered[0].data_as<float>()[1] == 2);
  CHECK(ordered[0].data_as<float>()[4] == 1);
}

TEST_CASE("outputs of an engine are checked against the signature") {
  const auto inputs = check_inputs(signature(), good(), {});
  const std::vector<Tensor> fine{floats({2, 7}), Tensor()};
  CHECK_NOTHROW(check_outputs(signature(), inputs, fine));
  output_refused({floats({2, 7})}, "2");
  output_refused({longs({2, 7}), Tensor()}, "z");
  output_refused({floats({3, 7}), Tensor()}, "z");
  output_refused({floats({2}), Tensor()}, "z");
  output_refused({Tensor(), Tensor()}, "z");
  output_refused({floats({2, 7}), floats({3})}, "more");
}

TEST_CASE("a signature is described like a function") {
  const std::string text = signature().describe();
  CHECK(text.find("x: float32[batch, 4]") != std::string::npos);
  CHECK(text.find("->") != std::string::npos);
}
