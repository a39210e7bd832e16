#include "isthmus/options.h"

#include <array>
#include <utility>

#include "isthmus/error.h"

namespace isthmus {
namespace {

constexpr std::array<std::pair<std::string_view, Trust>, 3> kTrusts{{
    {"data", Trust::kData},
    {"graph", Trust::kGraph},
    {"native", Trust::kNative},
}};

constexpr std::array<std::pair<std::string_view, Optimize>, 4> kOptimizes{{
    {"auto", Optimize::kAuto},
    {"none", Optimize::kNone},
    {"freeze", Optimize::kFreeze},
    {"inference", Optimize::kInference},
}};

constexpr std::array<std::pair<std::string_view, Unproven>, 3> kUnproven{{
    {"prove", Unproven::kProve},
    {"refuse", Unproven::kRefuse},
    {"allow", Unproven::kAllow},
}};

constexpr std::array<std::pair<std::string_view, Specials>, 2> kSpecials{{
    {"refuse", Specials::kRefuse},
    {"allow", Specials::kAllow},
}};

template <typename Table, typename Value>
std::string_view name_in(const Table& table, Value value) noexcept {
  for (const auto& [name, known] : table)
    if (known == value) return name;
  return "unknown";
}

template <typename Table>
auto parse_in(const Table& table, std::string_view option, std::string_view text) {
  std::string expected;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].first == text) return table[i].second;
    expected += (i == 0 ? "" : i + 1 == table.size() ? " or " : ", ");
    expected += table[i].first;
  }
  throw InvalidInput(std::string(option) + " \"" + std::string(text) + "\": expected " + expected);
}

}  // namespace

std::string_view name(Trust trust) noexcept {
  return name_in(kTrusts, trust);
}

std::string_view name(Optimize optimize) noexcept {
  return name_in(kOptimizes, optimize);
}

std::string_view name(Unproven unproven) noexcept {
  return name_in(kUnproven, unproven);
}

std::string_view name(Specials specials) noexcept {
  return name_in(kSpecials, specials);
}

Trust parse_trust(std::string_view text) {
  return parse_in(kTrusts, "trust", text);
}

Optimize parse_optimize(std::string_view text) {
  return parse_in(kOptimizes, "optimize", text);
}

Unproven parse_unproven(std::string_view text) {
  return parse_in(kUnproven, "unproven", text);
}

Specials parse_specials(std::string_view text) {
  return parse_in(kSpecials, "specials", text);
}

}  // namespace isthmus
