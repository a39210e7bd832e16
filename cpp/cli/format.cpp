#include "cli/format.h"

#include <array>
#include <cstdio>

#include "isthmus/machine.h"

namespace isthmus::cli {

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string number(double value, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*g", digits, value);
  return text.data();
}

std::string milliseconds(double value) {
  std::array<char, 64> text{};
  if (value >= 1e4)
    std::snprintf(text.data(), text.size(), "%.1f s", value / 1e3);
  else if (value >= 0.1)
    std::snprintf(text.data(), text.size(), value < 10 ? "%.2f ms" : "%.1f ms", value);
  else
    std::snprintf(text.data(), text.size(), "%.2f us", value * 1e3);
  return text.data();
}

std::string bytes(std::uint64_t count) {
  static constexpr std::array kUnits{"kB", "MB", "GB", "TB"};
  if (count < 1000) return std::to_string(count) + " B";
  double value = static_cast<double>(count) / 1e3;
  std::size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1e3;
    ++unit;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.1f %s", value, kUnits[unit]);
  return text.data();
}

std::string count(std::size_t n, std::string_view noun) {
  return std::to_string(n) + " " + std::string(noun) + (n == 1 ? "" : "s");
}

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += separator;
    text += word;
  }
  return text;
}

Facts context_of(const Model& model) {
  const LoadReport& report = model.load_report();
  const Machine machine = this_machine();
  return {
      {"bundle", model.bundle().manifest().name + " (" + model.bundle().root().string() + ")"},
      {"artifact", report.artifact},
      {"engine", report.engine},
      {"runtime", report.runtime},
      {"proof", report.proof},
      {"device", report.device},
      {"threads", report.threads > 0 ? std::to_string(report.threads) : "the runtime's default"},
      {"isthmus", version() + " (" + build_info() + ")"},
      {"machine", machine.cpu + ", " + count(static_cast<std::size_t>(machine.cores), "core") +
                      ", " + machine.system}};
}

void add_notes(Facts& facts, const std::vector<std::string>& notes, const std::string& name) {
  for (std::size_t i = 0; i < notes.size(); ++i)
    facts.emplace_back(i == 0 ? name : name + " " + std::to_string(i + 1), notes[i]);
}

}  // namespace isthmus::cli
