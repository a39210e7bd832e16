#include "core/scan/operator_table.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace isthmus::detail {
namespace {

// Both tables are sorted by name; scripts/make_pure_operators.py writes them.
constexpr std::string_view kPure[] = {
#include "core/scan/pure_operators.inc"
};

constexpr std::pair<std::string_view, std::string_view> kEffectful[] = {
#include "core/scan/effectful_operators.inc"
};

constexpr std::string_view kRandom[] = {
    "aten::bernoulli",    "aten::bernoulli_", "aten::binomial",     "aten::cauchy_",
    "aten::exponential_", "aten::geometric_", "aten::log_normal_",  "aten::multinomial",
    "aten::normal",       "aten::normal_",    "aten::poisson",      "aten::rand",
    "aten::rand_like",    "aten::randint",    "aten::randint_like", "aten::randn",
    "aten::randn_like",   "aten::random_",    "aten::randperm",     "aten::rrelu",
    "aten::rrelu_",       "aten::uniform_",
};

}  // namespace

bool is_pure_operator(std::string_view name) {
  return std::binary_search(std::begin(kPure), std::end(kPure), name);
}

std::string_view effect_of_operator(std::string_view name) {
  const auto entry =
      std::lower_bound(std::begin(kEffectful), std::end(kEffectful), name,
                       [](const auto& row, std::string_view key) { return row.first < key; });
  return entry != std::end(kEffectful) && entry->first == name ? entry->second : std::string_view();
}

bool is_torch_namespace(std::string_view name) {
  const std::string prefix = std::string(name) + "::";
  const auto pure = std::lower_bound(std::begin(kPure), std::end(kPure), prefix);
  if (pure != std::end(kPure) && pure->starts_with(prefix)) return true;
  const auto effectful =
      std::lower_bound(std::begin(kEffectful), std::end(kEffectful), std::string_view(prefix),
                       [](const auto& row, std::string_view key) { return row.first < key; });
  return effectful != std::end(kEffectful) && effectful->first.starts_with(prefix);
}

bool is_random_operator(std::string_view name) {
  return std::find(std::begin(kRandom), std::end(kRandom), name) != std::end(kRandom);
}

}  // namespace isthmus::detail
