#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "isthmus/model.h"

namespace isthmus::cli {

using Json = nlohmann::ordered_json;
using Facts = std::vector<std::pair<std::string, std::string>>;

/// Returns JSON text that is always valid UTF-8: invalid bytes are replaced.
std::string dump(const Json& json, int indent = -1);

/// Formats a number with this many significant digits, as printf's %g: "1.23e-07".
std::string number(double value, int digits = 3);
/// Formats a duration, given in milliseconds: "0.42 us", "4.56 ms", "12.3 s".
std::string milliseconds(double value);
/// Formats a number of bytes in decimal units: "90.9 MB".
std::string bytes(std::uint64_t count);
/// Formats a count with its noun: "1 golden", "3 goldens".
std::string count(std::size_t n, std::string_view noun);
std::string join(const std::vector<std::string>& words, std::string_view separator = ", ");
/// Formats a map as "a=1, b=2", and an empty one as "-".
template <typename Map>
std::string pairs(const Map& map) {
  std::string text;
  for (const auto& [key, value] : map) {
    text += (text.empty() ? "" : ", ") + std::string(key) + "=";
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>)
      text += std::to_string(value);
    else
      text += value;
  }
  return text.empty() ? "-" : text;
}

/// Returns the facts that apply to all rows of a report: bundle, artifact, engine, runtime, device,
/// threads, isthmus, machine.
Facts context_of(const Model& model);
/// Appends notes under unique keys: "note", "note 2", ...
void add_notes(Facts& facts, const std::vector<std::string>& notes,
               const std::string& name = "note");

}  // namespace isthmus::cli
