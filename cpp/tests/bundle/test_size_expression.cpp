#include <doctest/doctest.h>

#include "core/bundle/size_expression.h"
#include "isthmus/error.h"

using namespace isthmus;

namespace {

std::int64_t value(std::string_view text, SizeExpression::Sizes sizes = {}) {
  const auto result = SizeExpression(text).evaluate(sizes);
  REQUIRE(result.has_value());
  return *result;
}

void refused(std::string_view text, const char* why) {
  CAPTURE(text);
  CHECK_THROWS_WITH_AS(SizeExpression{text}, doctest::Contains(why), InvalidInput);
}

}  // namespace

TEST_CASE("sums, products and divisions are computed in the usual order") {
  CHECK(value("past + sequence", {5, 3}) == 8);
  CHECK(value("a - b - c", {10, 3, 2}) == 5);
  CHECK(value("samples // 160 + 1", {16000}) == 101);
  CHECK(value("samples // 160 + 1", {159}) == 1);
  CHECK(value("2 * (h + 1) * 3", {4}) == 30);
  CHECK(value("h * 4 // 3", {5}) == 6);
  CHECK(value("2 * (n // 2)", {7}) == 6);
  CHECK(value("(n - 3) // 2", {0}) == -2);  // rounded down, as in Python
  CHECK(value("n - n", {9}) == 0);
  CHECK(value("(1 + 2) * 4 - 6 // 4") == 11);
  CHECK(value("n // (2 + 3)", {11}) == 2);
}

TEST_CASE("names are listed once, and keep their text") {
  const SizeExpression expression("a + b1 * 2 + a");
  CHECK(expression.names() == std::vector<std::string>{"a", "b1"});
  CHECK(expression.text() == "a + b1 * 2 + a");
  CHECK(expression.explain({5, 3}) == "16 (a = 5, b1 = 3)");
  CHECK(SizeExpression("a").explain({5}) == "5");
}

TEST_CASE("a name outside of divisions is solved exactly") {
  const SizeExpression patches("16 * h");
  REQUIRE(patches.solvable_for(0));
  CHECK(patches.solve(0, 48, {}) == 3);
  CHECK_FALSE(patches.solve(0, 50, {}));
  const SizeExpression difference("a - 2 * b + 1");
  CHECK(difference.solve(1, 2, {9, 0}) == 4);
  CHECK_FALSE(difference.solve(1, 1, {9, 0}));
  const SizeExpression frames("n // 2 + m");
  CHECK_FALSE(frames.solvable_for(0));
  CHECK(frames.solvable_for(1));
  CHECK_FALSE(SizeExpression("n + n // 2").solvable_for(0));
  CHECK_FALSE(SizeExpression("n - n").solvable_for(0));
}

TEST_CASE("what does not fit into 64 bits has no value") {
  const SizeExpression expression("2147483647 * 2147483647 * n");
  CHECK(expression.evaluate({2}) == 2 * 2147483647LL * 2147483647LL);
  CHECK_FALSE(expression.evaluate({4}));
  CHECK_FALSE(expression.evaluate({INT64_MAX}));
  CHECK_FALSE(SizeExpression("a + b").evaluate({INT64_MAX, 1}));
}

TEST_CASE("texts that are no expression are refused") {
  refused("", "ends too early");
  refused("a +", "ends too early");
  refused("a b", "is not expected");
  refused("a % 2", "is not expected");
  refused("(a", "is missing");
  refused("a)", "is not expected");
  refused("-a", "is not expected");
  refused("a * b", "constant factor");
  refused("a // b", "positive constant");
  refused("a // 0", "positive constant");
  refused("a // (1 - 2)", "positive constant");
  refused("a / 2", "is not expected");
  refused("2147483648 * a", "larger than");
  refused("a + b + c + d + e + f + g + h + i", "more than 8 names");
  refused(std::string(300, 'a'), "longer than");
  refused(std::string(40, '(') + "a" + std::string(40, ')'), "nested too deeply");
  refused("2147483647 * 2147483647 * 2147483647", "too large");
}
