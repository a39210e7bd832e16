#include "core/files/json_reader.h"

#include <algorithm>
#include <cmath>

namespace isthmus::detail {
namespace {

// Returns the value for a message, shortened when it is long.
std::string shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

std::string member_path(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + "." + std::string(key);
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::size_t max_depth) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (static_cast<std::size_t>(depth) > max_depth) {
      throw JsonError("nested deeper than " + std::to_string(max_depth) + " levels");
    }
    if (event == Event::object_start) {
      keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key &&
               !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      throw JsonError("the key " + parsed.dump() + " stands twice in one object");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    std::string what = error.what();
    const std::size_t bracket = what.find("] ");
    throw JsonError("not valid JSON: " +
                    (bracket == std::string::npos ? what : what.substr(bracket + 2)));
  }
}

void JsonReader::fail(std::string_view expected) const {
  throw JsonError((path_.empty() ? std::string("the document") : path_) + ": expected " +
                  std::string(expected) + ", got " + shown(*value_));
}

JsonReader JsonReader::at(const char* key) const {
  if (auto member = find(key)) return *std::move(member);
  throw JsonError(member_path(path_, key) + ": it is missing");
}

std::optional<JsonReader> JsonReader::find(const char* key) const {
  if (!value_->is_object()) fail("an object");
  const auto member = value_->find(key);
  if (member == value_->end()) return std::nullopt;
  return JsonReader(*member, member_path(path_, key));
}

std::string JsonReader::text() const {
  if (!value_->is_string()) fail("a string");
  return value_->get<std::string>();
}

std::string JsonReader::name() const {
  std::string result = value_->is_string() ? value_->get<std::string>() : std::string();
  const bool printable = std::none_of(result.begin(), result.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (result.empty() || result.size() > 1024 || !printable) {
    fail("a printable string of 1 to 1024 bytes");
  }
  return result;
}

bool JsonReader::boolean() const {
  if (!value_->is_boolean()) fail("true or false");
  return value_->get<bool>();
}

std::int64_t JsonReader::integer(std::int64_t low, std::int64_t high) const {
  const auto range = [&] {
    return "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  };
  if (!value_->is_number_integer()) fail(range());
  if (value_->is_number_unsigned() &&
      value_->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    fail(range());
  }
  const auto number = value_->get<std::int64_t>();
  if (number < low || number > high) fail(range());
  return number;
}

double JsonReader::number_from_zero() const {
  if (!value_->is_number()) fail("a number, zero or greater");
  const auto number = value_->get<double>();
  if (!std::isfinite(number) || number < 0) fail("a number, zero or greater");
  return number;
}

std::vector<JsonReader> JsonReader::list() const {
  if (!value_->is_array()) fail("a list");
  std::vector<JsonReader> items;
  items.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    items.emplace_back((*value_)[i], path_ + "[" + std::to_string(i) + "]");
  }
  return items;
}

std::vector<std::pair<std::string, JsonReader>> JsonReader::members() const {
  if (!value_->is_object()) fail("an object");
  std::vector<std::pair<std::string, JsonReader>> items;
  for (const auto& [key, member] : value_->items()) {
    items.emplace_back(key, JsonReader(member, member_path(path_, key)));
  }
  return items;
}

std::string JsonReader::choice(std::initializer_list<std::string_view> choices) const {
  if (value_->is_string()) {
    std::string chosen = value_->get<std::string>();
    if (std::find(choices.begin(), choices.end(), chosen) != choices.end()) return chosen;
  }
  std::string expected = "one of";
  for (const std::string_view option : choices) {
    expected += (expected.size() > 6 ? ", \"" : " \"") + std::string(option) + "\"";
  }
  fail(expected);
}

}  // namespace isthmus::detail
