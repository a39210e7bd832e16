#include "core/bundle/size_expression.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

constexpr std::size_t kMaxLength = 256;
constexpr int kMaxDepth = 16;
constexpr std::int64_t kMaxConstant = std::numeric_limits<std::int32_t>::max();

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

std::int64_t floor_divide(std::int64_t dividend, std::int64_t divisor) {
  const std::int64_t quotient = dividend / divisor;
  return dividend % divisor < 0 ? quotient - 1 : quotient;
}

}  // namespace

/// Reads the text by recursive descent, and writes the steps.
class SizeExpression::Compiler {
 public:
  Compiler(std::string_view text, SizeExpression& result) : text_(text), result_(result) {
    if (text.size() > kMaxLength)
      fail("it is longer than " + std::to_string(kMaxLength) + " characters");
    sum(0);
    skip_spaces();
    if (at_ < text_.size()) fail(detail::in_quotes(text_.substr(at_)) + " is not expected");
    if (most_ > kMaxStack) fail("it is nested too deeply");
    for (std::size_t name = 0; name < result_.names_.size(); ++name)
      result_.factors_.push_back(divided_.contains(name) ? 0 : factor_of(name));
  }

 private:
  /// A part of the text: where its steps begin, and its value if it has no names.
  struct Part {
    std::size_t begin;
    std::optional<std::int64_t> constant;
  };

  [[noreturn]] void fail(const std::string& why) const {
    throw InvalidInput("the size \"" + std::string(text_.substr(0, kMaxLength)) +
                       "\" is no expression over dimensions: " + why);
  }

  void skip_spaces() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }

  bool take(std::string_view token) {
    skip_spaces();
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  Part sum(int depth) {
    if (depth > kMaxDepth) fail("its parentheses are nested too deeply");
    Part left = product(depth);
    while (true) {
      const bool adds = take("+");
      if (!adds && !take("-")) return left;
      const Part right = product(depth);
      join(left, right, adds ? Operation::kAdd : Operation::kSubtract);
    }
  }

  Part product(int depth) {
    Part left = factor(depth);
    while (true) {
      const bool divides = take("//");
      if (!divides && !take("*")) return left;
      const Part right = factor(depth);
      if (divides) {
        divide(left, right);
      } else {
        if (!left.constant && !right.constant) fail("a product needs a constant factor");
        join(left, right, Operation::kMultiply);
      }
    }
  }

  Part factor(int depth) {
    skip_spaces();
    const Part part{result_.steps_.size(), std::nullopt};
    if (take("(")) {
      const Part inner = sum(depth + 1);
      if (!take(")")) fail("a \")\" is missing");
      return inner;
    }
    if (at_ == text_.size()) fail("it ends too early");
    if (is_digit(text_[at_])) {
      const std::int64_t value = number();
      emit(Operation::kConstant, value);
      return {part.begin, value};
    }
    if (!begins_name(text_[at_]))
      fail(detail::in_quotes(text_.substr(at_, 1)) + " is not expected");
    emit(Operation::kName, static_cast<std::int64_t>(name_index()));
    return part;
  }

  std::int64_t number() {
    std::int64_t value = 0;
    for (; at_ < text_.size() && is_digit(text_[at_]); ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > kMaxConstant) fail("a number is larger than " + std::to_string(kMaxConstant));
    }
    return value;
  }

  std::size_t name_index() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && (begins_name(text_[at_]) || is_digit(text_[at_]))) ++at_;
    const std::string name(text_.substr(begin, at_ - begin));
    const auto found = std::find(result_.names_.begin(), result_.names_.end(), name);
    const auto index = static_cast<std::size_t>(found - result_.names_.begin());
    if (found == result_.names_.end()) result_.names_.push_back(name);
    if (result_.names_.size() > kMaxNames)
      fail("it has more than " + std::to_string(kMaxNames) + " names");
    return index;
  }

  void join(Part& left, const Part& right, Operation operation) {
    emit(operation, 0);
    if (left.constant && right.constant)
      fold(left);
    else
      left.constant.reset();
  }

  void divide(Part& left, const Part& right) {
    if (!right.constant || *right.constant < 1) fail("a divisor has to be a positive constant");
    for (std::size_t at = left.begin; at < right.begin; ++at)
      if (result_.steps_[at].operation == Operation::kName)
        divided_.insert(static_cast<std::size_t>(result_.steps_[at].value));
    result_.steps_.resize(right.begin);
    --stack_;
    emit(Operation::kDivide, *right.constant);
    if (left.constant) fold(left);
  }

  /// Replaces the steps of a part without names by its value.
  void fold(Part& part) {
    const auto begin = result_.steps_.begin() + static_cast<std::ptrdiff_t>(part.begin);
    SizeExpression alone(std::vector<Step>(begin, result_.steps_.end()));
    part.constant = alone.evaluate({});
    if (!part.constant) fail("its numbers are too large");
    result_.steps_.erase(begin, result_.steps_.end());
    --stack_;
    emit(Operation::kConstant, *part.constant);
  }

  void emit(Operation operation, std::int64_t value) {
    result_.steps_.push_back({operation, value});
    if (operation == Operation::kConstant || operation == Operation::kName)
      ++stack_;
    else if (operation != Operation::kDivide)
      --stack_;
    most_ = std::max(most_, stack_);
    if (most_ > kMaxStack) fail("it is nested too deeply");
  }

  /// Returns the coefficient of a name that is in no division.
  std::int64_t factor_of(std::size_t name) const {
    Sizes sizes{};
    const auto without = result_.evaluate(sizes);
    sizes[name] = 1;
    const auto with = result_.evaluate(sizes);
    if (!without || !with) fail("its numbers are too large");
    return *with - *without;
  }

  std::string_view text_;
  SizeExpression& result_;
  std::size_t at_ = 0;
  std::size_t stack_ = 0;  ///< the number of values that the steps leave so far
  std::size_t most_ = 0;
  std::set<std::size_t> divided_;  ///< the names that are inside a division
};

SizeExpression::SizeExpression(std::string_view text) : text_(text) {
  Compiler(text_, *this);
}

SizeExpression::SizeExpression(std::vector<Step> steps) : steps_(std::move(steps)) {}

std::optional<std::int64_t> SizeExpression::evaluate(const Sizes& sizes) const noexcept {
  std::array<std::int64_t, kMaxStack> stack;
  std::size_t top = 0;
  for (const Step& step : steps_) {
    switch (step.operation) {
      case Operation::kConstant:
        stack[top++] = step.value;
        continue;
      case Operation::kName:
        stack[top++] = sizes[static_cast<std::size_t>(step.value)];
        continue;
      case Operation::kDivide:
        stack[top - 1] = floor_divide(stack[top - 1], step.value);
        continue;
      default:
        break;
    }
    const std::int64_t right = stack[--top];
    std::int64_t& left = stack[top - 1];
    const bool overflows =
        step.operation == Operation::kAdd        ? __builtin_add_overflow(left, right, &left)
        : step.operation == Operation::kSubtract ? __builtin_sub_overflow(left, right, &left)
                                                 : __builtin_mul_overflow(left, right, &left);
    if (overflows) return std::nullopt;
  }
  return stack[0];
}

bool SizeExpression::solvable_for(std::size_t name) const noexcept {
  return factors_[name] != 0;
}

std::optional<std::int64_t> SizeExpression::solve(std::size_t name, std::int64_t value,
                                                  Sizes sizes) const noexcept {
  sizes[name] = 0;
  const auto rest = evaluate(sizes);
  std::int64_t difference = 0;
  if (!rest || __builtin_sub_overflow(value, *rest, &difference)) return std::nullopt;
  if (difference % factors_[name] != 0) return std::nullopt;
  return difference / factors_[name];
}

std::string SizeExpression::explain(const Sizes& sizes) const {
  const auto value = evaluate(sizes);
  std::string text = value ? std::to_string(*value) : "more than 64 bits hold";
  if (names_.empty() || text_ == names_.front()) return text;
  const char* separator = " (";
  for (std::size_t i = 0; i < names_.size(); ++i) {
    text += separator + names_[i] + " = " + std::to_string(sizes[i]);
    separator = ", ";
  }
  return text + ")";
}

}  // namespace isthmus
