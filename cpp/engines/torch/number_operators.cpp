#include "engines/torch/number_operators.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

using c10::IValue;
using Arguments = std::span<const IValue>;

[[noreturn]] void fail(const std::string& what) {
  throw ExecutionError("a size or another number of the program " + what);
}

void require_count(Arguments arguments, std::size_t count) {
  if (arguments.size() != count)
    fail("has " + std::to_string(arguments.size()) + " arguments, expected " +
         std::to_string(count));
}

bool is_whole(const IValue& value) {
  return value.isInt() || value.isBool();
}

std::int64_t whole(const IValue& value) {
  if (value.isBool()) return value.toBool() ? 1 : 0;
  if (value.isInt()) return value.toInt();
  fail("is a " + value.tagKind() + ", expected an integer");
}

double real(const IValue& value) {
  if (value.isDouble()) return value.toDouble();
  return static_cast<double>(whole(value));
}

bool truth(const IValue& value) {
  if (value.isDouble()) return value.toDouble() != 0.0;
  return whole(value) != 0;
}

std::int64_t checked(bool overflowed, std::int64_t result) {
  if (overflowed) fail("does not fit into 64 bits");
  return result;
}

/// Applies the operator for integers where both arguments are whole, else the one for floats.
template <typename Whole, typename Real>
IValue arithmetic(Arguments arguments, Whole of_wholes, Real of_reals) {
  require_count(arguments, 2);
  const IValue& left = arguments[0];
  const IValue& right = arguments[1];
  if (is_whole(left) && is_whole(right)) return of_wholes(whole(left), whole(right));
  return of_reals(real(left), real(right));
}

IValue add(Arguments arguments) {
  return arithmetic(
      arguments,
      [](std::int64_t left, std::int64_t right) {
        std::int64_t sum = 0;
        const bool over = __builtin_add_overflow(left, right, &sum);
        return checked(over, sum);
      },
      [](double left, double right) { return left + right; });
}

IValue subtract(Arguments arguments) {
  return arithmetic(
      arguments,
      [](std::int64_t left, std::int64_t right) {
        std::int64_t difference = 0;
        const bool over = __builtin_sub_overflow(left, right, &difference);
        return checked(over, difference);
      },
      [](double left, double right) { return left - right; });
}

std::int64_t product(std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  const bool over = __builtin_mul_overflow(left, right, &result);
  return checked(over, result);
}

IValue multiply(Arguments arguments) {
  return arithmetic(arguments, product, [](double left, double right) { return left * right; });
}

/// Refuses a division by zero, and the only division of integers that overflows.
void require_divisor(std::int64_t left, std::int64_t right) {
  if (right == 0) fail("is divided by zero");
  if (right == -1 && left == INT64_MIN) fail("does not fit into 64 bits");
}

double remainder(double left, double right) {
  if (right == 0.0) fail("is divided by zero");
  const double rest = std::fmod(left, right);
  return rest != 0.0 && (rest < 0.0) != (right < 0.0) ? rest + right : rest;
}

IValue floor_divide(Arguments arguments) {
  return arithmetic(
      arguments,
      [](std::int64_t left, std::int64_t right) {
        require_divisor(left, right);
        const std::int64_t quotient = left / right;
        return quotient - ((left % right != 0 && (left < 0) != (right < 0)) ? 1 : 0);
      },
      [](double left, double right) {
        // As CPython's float_divmod does, for left / right may be rounded up to the next integer.
        const double quotient = (left - remainder(left, right)) / right;
        const double floored = std::floor(quotient);
        return quotient - floored > 0.5 ? floored + 1.0 : floored;
      });
}

IValue modulo(Arguments arguments) {
  return arithmetic(
      arguments,
      [](std::int64_t left, std::int64_t right) {
        require_divisor(left, right);
        const std::int64_t rest = left % right;
        return rest != 0 && (rest < 0) != (right < 0) ? rest + right : rest;
      },
      remainder);
}

IValue divide(Arguments arguments) {
  require_count(arguments, 2);
  const double right = real(arguments[1]);
  if (right == 0.0) fail("is divided by zero");
  return real(arguments[0]) / right;
}

IValue power(Arguments arguments) {
  require_count(arguments, 2);
  if (!is_whole(arguments[0]) || !is_whole(arguments[1]) || whole(arguments[1]) < 0)
    return std::pow(real(arguments[0]), real(arguments[1]));
  std::int64_t base = whole(arguments[0]);
  std::int64_t exponent = whole(arguments[1]);
  std::int64_t result = 1;
  while (true) {
    if ((exponent & 1) != 0) result = product(result, base);
    exponent >>= 1;
    if (exponent == 0) return result;
    base = product(base, base);
  }
}

std::int64_t shift_of(Arguments arguments) {
  require_count(arguments, 2);
  const std::int64_t shift = whole(arguments[1]);
  if (shift < 0 || shift > 62) fail("is shifted by " + std::to_string(shift) + " bits");
  return shift;
}

IValue shift_left(Arguments arguments) {
  return product(whole(arguments[0]), std::int64_t{1} << shift_of(arguments));
}

IValue shift_right(Arguments arguments) {
  return whole(arguments[0]) >> shift_of(arguments);
}

template <typename Compare>
IValue compared(Arguments arguments, Compare compare) {
  require_count(arguments, 2);
  if (is_whole(arguments[0]) && is_whole(arguments[1]))
    return compare(whole(arguments[0]), whole(arguments[1]));
  return compare(real(arguments[0]), real(arguments[1]));
}

template <typename Operator>
IValue bitwise(Arguments arguments, Operator apply) {
  require_count(arguments, 2);
  if (arguments[0].isBool() && arguments[1].isBool())
    return apply(whole(arguments[0]), whole(arguments[1])) != 0;
  return apply(whole(arguments[0]), whole(arguments[1]));
}

IValue negate(Arguments arguments) {
  require_count(arguments, 1);
  if (!is_whole(arguments[0])) return -real(arguments[0]);
  std::int64_t result = 0;
  const bool over = __builtin_sub_overflow(std::int64_t{0}, whole(arguments[0]), &result);
  return checked(over, result);
}

IValue keep(Arguments arguments) {
  require_count(arguments, 1);
  if (is_whole(arguments[0])) return whole(arguments[0]);
  return real(arguments[0]);
}

/// Returns a float without a fraction as an integer.
IValue to_whole(double value) {
  constexpr double kLimit = 9223372036854775808.0;  // 2^63
  if (!(value >= -kLimit && value < kLimit)) fail("does not fit into 64 bits");
  return static_cast<std::int64_t>(value);
}

template <double (*round)(double)>
IValue rounded(Arguments arguments) {
  require_count(arguments, 1);
  if (is_whole(arguments[0])) return whole(arguments[0]);
  return to_whole(round(real(arguments[0])));
}

double truncated(double value) {
  return std::trunc(value);
}
double floored(double value) {
  return std::floor(value);
}
double ceiled(double value) {
  return std::ceil(value);
}

IValue to_float(Arguments arguments) {
  require_count(arguments, 1);
  return real(arguments[0]);
}

IValue choose(Arguments arguments) {
  require_count(arguments, 3);
  return truth(arguments[0]) ? arguments[1] : arguments[2];
}

/// Of an integer and a float, torch.sym_max and torch.sym_min give a float.
IValue largest(Arguments arguments) {
  return arithmetic(
      arguments, [](std::int64_t left, std::int64_t right) { return std::max(left, right); },
      [](double left, double right) { return std::max(left, right); });
}

IValue smallest(Arguments arguments) {
  return arithmetic(
      arguments, [](std::int64_t left, std::int64_t right) { return std::min(left, right); },
      [](double left, double right) { return std::min(left, right); });
}

IValue negated_truth(Arguments arguments) {
  require_count(arguments, 1);
  return !truth(arguments[0]);
}

IValue square_root(Arguments arguments) {
  require_count(arguments, 1);
  if (real(arguments[0]) < 0.0) fail("has no square root");
  return std::sqrt(real(arguments[0]));
}

constexpr std::array<std::pair<std::string_view, NumberOperator>, 29> kOperators{{
    {"_operator::add", add},
    {"_operator::and_",
     [](Arguments a) { return bitwise(a, [](auto x, auto y) { return x & y; }); }},
    {"_operator::eq",
     [](Arguments a) { return compared(a, [](auto x, auto y) { return x == y; }); }},
    {"_operator::floordiv", floor_divide},
    {"_operator::ge",
     [](Arguments a) { return compared(a, [](auto x, auto y) { return x >= y; }); }},
    {"_operator::gt",
     [](Arguments a) { return compared(a, [](auto x, auto y) { return x > y; }); }},
    {"_operator::le",
     [](Arguments a) { return compared(a, [](auto x, auto y) { return x <= y; }); }},
    {"_operator::lshift", shift_left},
    {"_operator::lt",
     [](Arguments a) { return compared(a, [](auto x, auto y) { return x < y; }); }},
    {"_operator::mod", modulo},
    {"_operator::mul", multiply},
    {"_operator::ne",
     [](Arguments a) { return compared(a, [](auto x, auto y) { return x != y; }); }},
    {"_operator::neg", negate},
    {"_operator::or_",
     [](Arguments a) { return bitwise(a, [](auto x, auto y) { return x | y; }); }},
    {"_operator::pos", keep},
    {"_operator::pow", power},
    {"_operator::rshift", shift_right},
    {"_operator::sub", subtract},
    {"_operator::truediv", divide},
    {"math::ceil", rounded<ceiled>},
    {"math::floor", rounded<floored>},
    {"math::trunc", rounded<truncated>},
    {"torch::_sym_sqrt", square_root},
    {"torch::sym_float", to_float},
    {"torch::sym_int", rounded<truncated>},
    {"torch::sym_ite", choose},
    {"torch::sym_max", largest},
    {"torch::sym_min", smallest},
    {"torch::sym_not", negated_truth},
}};

}  // namespace

NumberOperator find_number_operator(std::string_view name) {
  const auto found = std::find_if(kOperators.begin(), kOperators.end(),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == kOperators.end() ? nullptr : found->second;
}

}  // namespace isthmus::torch_engine
