#include "core/bundle/input_names.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

/// Returns the Levenshtein distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string expected_names(const Signature& signature) {
  if (signature.inputs.empty()) return "no inputs";
  return joined(signature.inputs, [](const ValueSpec& spec) {
    return in_quotes(spec.name) + (spec.optional ? " (optional)" : "");
  });
}

void check_names(const Signature& signature, const Inputs& inputs) {
  for (auto item = inputs.begin(); item != inputs.end(); ++item) {
    const std::string& given = item->first;
    const bool known = std::any_of(signature.inputs.begin(), signature.inputs.end(),
                                   [&](const ValueSpec& spec) { return spec.name == given; });
    if (!known) {
      const auto nearest =
          std::min_element(signature.inputs.begin(), signature.inputs.end(),
                           [&](const ValueSpec& a, const ValueSpec& b) {
                             return edit_distance(a.name, given) < edit_distance(b.name, given);
                           });
      std::string hint;
      if (nearest != signature.inputs.end() &&
          edit_distance(nearest->name, given) <= std::max<std::size_t>(2, given.size() / 3))
        hint = "; did you mean \"" + nearest->name + "\"?";
      throw InvalidInput("input \"" + given + "\" is not one of the model's inputs; expected " +
                         expected_names(signature) + hint);
    }
    for (auto earlier = inputs.begin(); earlier != item; ++earlier)
      if (earlier->first == given)
        throw InvalidInput("input \"" + given + "\" is given twice; expected each name once");
  }
}

}  // namespace isthmus::detail
