#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace isthmus::detail {

/// What is wrong with a JSON document; callers turn it into the public error that fits.
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Parses strictly: no duplicate keys, where readers would differ on which one counts, and at most
/// `max_depth` levels. @throws JsonError.
nlohmann::json parse_json(std::string_view text, std::size_t max_depth = 200);

/// A value in a document and the path that leads to it, for messages such as
/// `artifacts[0].files[0].size: expected an integer from 0 to 9, got "x"`.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& value, std::string path)
      : value_(&value), path_(std::move(path)) {}

  [[nodiscard]] const nlohmann::json& value() const noexcept { return *value_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] bool is_null() const noexcept { return value_->is_null(); }

  [[noreturn]] void fail(std::string_view expected) const;

  /// A member of an object. @throws JsonError when it is missing.
  [[nodiscard]] JsonReader at(const char* key) const;
  [[nodiscard]] std::optional<JsonReader> find(const char* key) const;

  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string name() const;  ///< not empty, printable, at most 1024 bytes
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] std::int64_t integer(std::int64_t low, std::int64_t high) const;
  [[nodiscard]] double number_from_zero() const;
  [[nodiscard]] std::vector<JsonReader> list() const;
  [[nodiscard]] std::vector<std::pair<std::string, JsonReader>> members() const;
  /// One of `choices`.
  [[nodiscard]] std::string choice(std::initializer_list<std::string_view> choices) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace isthmus::detail
