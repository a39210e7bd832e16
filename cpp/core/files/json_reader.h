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

/// A defect of a JSON document. Callers turn it into a public error.
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Parses JSON. Duplicate keys are refused, because readers differ on which one counts, and so are
/// more than `max_depth` levels. @throws JsonError.
nlohmann::json parse_json(std::string_view text, std::size_t max_depth = 200);

/// A JSON cursor: a value in a document and its path, for messages such as
/// `artifacts[0].files[0].size: expected an integer from 0 to 9, got "x"`. All accessors throw
/// JsonError when the value is not what they return. The document must outlive the cursor.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& value, std::string path)
      : value_(&value), path_(std::move(path)) {}

  [[nodiscard]] const nlohmann::json& value() const noexcept { return *value_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] bool is_null() const noexcept { return value_->is_null(); }

  /// @throws JsonError with the path, what was expected, and the value.
  [[noreturn]] void fail(std::string_view expected) const;

  /// Returns a member of an object; a missing one is an error.
  [[nodiscard]] JsonReader at(const char* key) const;
  /// Returns a member of an object, or nullopt.
  [[nodiscard]] std::optional<JsonReader> find(const char* key) const;

  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string name() const;  ///< not empty, printable, at most 1024 bytes
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] std::int64_t integer(std::int64_t low, std::int64_t high) const;
  [[nodiscard]] double number_from_zero() const;
  [[nodiscard]] std::vector<JsonReader> list() const;
  [[nodiscard]] std::vector<std::pair<std::string, JsonReader>> members() const;
  /// Returns a string that is one of `choices`.
  [[nodiscard]] std::string choice(std::initializer_list<std::string_view> choices) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace isthmus::detail
