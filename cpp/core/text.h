#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace isthmus::detail {

/// Joins the texts of items with ", ". `text` gives the text of an item, as a function or a pointer
/// to a member.
template <typename Items, typename Text = std::identity>
std::string joined(const Items& items, Text text = {}) {
  std::string result;
  for (const auto& item : items) {
    if (!result.empty()) result += ", ";
    result += std::invoke(text, item);
  }
  return result;
}

/// Returns the name in double quotes.
inline std::string in_quotes(std::string_view name) {
  return '"' + std::string(name) + '"';
}

/// Returns the text with A to Z in lower case, whatever the locale.
inline std::string lower_ascii(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return result;
}

}  // namespace isthmus::detail
