#include <doctest/doctest.h>

#include <cstdint>
#include <optional>

#include "core/bundle/size_expression.h"
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

TEST_CASE("combinations of sizes and numbers that are not served are refused") {
  Signature method = signature();
  method.inputs.push_back({"rate", ValueKind::kInteger, DType::kInt64, std::vector<Dim>{}, true});
  method.served = {{{{"batch", 2}}, {{"rate", 16000}, {"flag", 1}}},
                   {{{"batch", 4}}, {{"rate", 8000}, {"flag", 0}}}};
  const auto call = [&](std::int64_t batch, bool flag, std::optional<std::int64_t> rate) {
    Inputs inputs{{"x", floats({batch, 4})}, {"y", longs({batch})}, {"flag", Tensor::scalar(flag)}};
    if (rate) inputs.add("rate", Tensor::scalar(*rate));
    return check_inputs(method, inputs, {});
  };
  CHECK_NOTHROW(call(2, true, 16000));
  CHECK_NOTHROW(call(4, false, 8000));
  CHECK_NOTHROW(call(4, false, std::nullopt));
  CHECK_THROWS_WITH_AS(call(2, true, 8000),
                       doctest::Contains("called with batch=2, flag=1, rate=8000, which the model "
                                         "does not take together; expected batch=2, flag=1, "
                                         "rate=16000; or batch=4, flag=0, rate=8000"),
                       InvalidInput);
  CHECK_THROWS_AS(call(4, true, std::nullopt), InvalidInput);
  CHECK_THROWS_AS(call(3, false, 8000), InvalidInput);
  CHECK(method.describe().ends_with(
      ", takes only batch=2, flag=1, rate=16000; or batch=4, flag=0, rate=8000"));
  CHECK(signature().describe().find("takes only") == std::string::npos);
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

namespace {

std::shared_ptr<const SizeExpression> expression(const std::string& text) {
  return std::make_shared<const SizeExpression>(text);
}
Dim derived(const std::string& text) {
  return {text, -1, expression(text)};
}
ValueSpec floats_of(std::string name, std::vector<Dim> shape, bool optional = false) {
  return {std::move(name), ValueKind::kTensor, DType::kFloat32, std::move(shape), optional};
}

/// A decoder: the mask comes first, so that its size is computed before the names are known.
Signature decoder() {
  Signature result;
  result.inputs = {floats_of("mask", {named("batch"), derived("past + sequence")}),
                   floats_of("ids", {named("batch"), named("sequence")}),
                   floats_of("cache", {named("batch"), named("past")}),
                   floats_of("image", {derived("16 * h")}, true)};
  result.outputs = {floats_of("keys", {derived("past + sequence")}),
                    floats_of("frames", {derived("sequence // 2 + 1")}),
                    floats_of("patches", {named("h")}, true)};
  result.dims = {{"batch", {1, 4}}, {"past", {0, 64}}, {"sequence", {1, 32}}, {"h", {1, 8}}};
  return result;
}

void decoder_refused(const std::vector<Shape>& shapes, const char* why) {
  std::vector<Tensor> inputs;
  for (const Shape& shape : shapes) inputs.push_back(floats(shape));
  inputs.resize(4);
  const Signature signature = decoder();
  CHECK_THROWS_WITH_AS(check_inputs(signature, inputs, {}), doctest::Contains(why), InvalidInput);
}

}  // namespace

TEST_CASE("sizes that follow from others are computed and checked") {
  const Signature signature = decoder();
  std::vector<Tensor> inputs{floats({1, 8}), floats({1, 3}), floats({1, 5}), Tensor()};
  CHECK_NOTHROW(check_inputs(signature, inputs, {}));
  decoder_refused({{1, 9}, {1, 3}, {1, 5}},
                  "input \"mask\": dimension \"past + sequence\" (axis 1) is 9, expected 8 (past = "
                  "5, sequence = 3); got float32[1, 9] on cpu");
  decoder_refused({{1, 3}, {1, 3}, {1, 65}}, "outside its range 0 to 64");
  std::vector<Tensor> empty{floats({2, 3}), floats({2, 3}), floats({2, 0}), Tensor()};
  CHECK_NOTHROW(check_inputs(signature, empty, {}));

  CHECK_NOTHROW(check_outputs(signature, inputs, std::vector{floats({8}), floats({2}), Tensor()}));
  CHECK_THROWS_WITH_AS(
      check_outputs(signature, inputs, std::vector{floats({7}), floats({2}), Tensor()}),
      doctest::Contains("axis 0 should be 8 (past = 5, sequence = 3)"), ExecutionError);
  CHECK_THROWS_WITH_AS(
      check_outputs(signature, inputs, std::vector{floats({8}), floats({3}), Tensor()}),
      doctest::Contains("axis 0 should be 2 (sequence = 3)"), ExecutionError);
  // Without the image, "h" is not known, and the output is not checked.
  CHECK_NOTHROW(
      check_outputs(signature, inputs, std::vector{floats({8}), floats({2}), floats({77})}));
}

TEST_CASE("a name that only an expression has is solved") {
  const Signature signature = decoder();
  std::vector<Tensor> inputs{floats({1, 8}), floats({1, 3}), floats({1, 5}), floats({48})};
  CHECK_NOTHROW(check_inputs(signature, inputs, {}));
  CHECK_NOTHROW(
      check_outputs(signature, inputs, std::vector{floats({8}), floats({2}), floats({3})}));
  CHECK_THROWS_WITH_AS(
      check_outputs(signature, inputs, std::vector{floats({8}), floats({2}), floats({4})}),
      doctest::Contains("axis 0 should be 3"), ExecutionError);
  decoder_refused({{1, 8}, {1, 3}, {1, 5}, {50}},
                  "input \"image\": axis 0 is 50, expected \"16 * h\" with \"h\" 1 to 8; got "
                  "float32[50] on cpu");
  decoder_refused({{1, 8}, {1, 3}, {1, 5}, {144}}, "expected \"16 * h\" with \"h\" 1 to 8");
}

TEST_CASE("a set of sizes refuses the sizes between") {
  Signature signature;
  signature.inputs = {floats_of("x", {named("w")})};
  signature.dims["w"] = {2, 8, {2, 4, 8}};
  for (const std::int64_t size : {2, 4, 8})
    CHECK_NOTHROW(check_inputs(signature, {{"x", floats({size})}}, {}));
  for (const std::int64_t size : {1, 3, 9})
    CHECK_THROWS_WITH_AS(check_inputs(signature, {{"x", floats({size})}}, {}),
                         doctest::Contains("outside its range 2 or 4 or 8"), InvalidInput);
}

TEST_CASE("the bound of a value may follow from a size") {
  Signature signature;
  ValueSpec edges{"edges", ValueKind::kTensor, DType::kInt64, std::vector<Dim>{named("e")}, false};
  edges.values = ValueRange{0, 0, nullptr, expression("nodes - 1")};
  signature.inputs = {edges, floats_of("x", {named("nodes")})};
  const auto call = [&](std::int64_t edge, std::int64_t nodes) {
    const Tensor value = longs({3});
    value.data_as<std::int64_t>()[1] = edge;
    check_inputs(signature, {{"edges", value}, {"x", floats({nodes})}}, {});
  };
  CHECK_NOTHROW(call(6, 7));
  CHECK_THROWS_WITH_AS(call(7, 7),
                       doctest::Contains("input \"edges\": expected values 0 to 6 (nodes - 1 = 6 "
                                         "(nodes = 7)), got 7 at [1] of int64[3] on cpu"),
                       InvalidInput);
  CHECK_THROWS_AS(call(-1, 7), InvalidInput);
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
