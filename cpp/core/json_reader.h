#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "isthmus/error.h"

namespace isthmus {

/// A JSON value together with its path, so that every complaint says where it is.
class JsonReader {
 public:
  using Json = nlohmann::ordered_json;

  JsonReader(const Json& json, std::string path) : json_(&json), path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw BundleError(path_ + ": " + what + "; the bundle is damaged or was edited by hand: export "
                                            "it again");
  }
  [[nodiscard]] const Json& json() const { return *json_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  [[nodiscard]] bool has(const char* key) const {
    require(json_->is_object(), "an object");
    return json_->contains(key);
  }
  [[nodiscard]] JsonReader at(const char* key) const {
    require(json_->is_object(), "an object");
    const auto found = json_->find(key);
    if (found == json_->end()) fail(std::string("\"") + key + "\" is missing");
    return {*found, path_ + "." + key};
  }
  [[nodiscard]] JsonReader at(std::size_t index) const {
    return {(*json_)[index], path_ + "[" + std::to_string(index) + "]"};
  }
  [[nodiscard]] std::size_t array_size() const {
    require(json_->is_array(), "a list");
    return json_->size();
  }

  [[nodiscard]] std::string text() const {
    require(json_->is_string(), "a string");
    return json_->get<std::string>();
  }
  [[nodiscard]] bool boolean() const {
    require(json_->is_boolean(), "true or false");
    return json_->get<bool>();
  }
  /// An integer of at least `least`.
  [[nodiscard]] std::int64_t integer(std::int64_t least = INT64_MIN) const {
    require(json_->is_number_integer(), "an integer");
    if (json_->is_number_unsigned() &&
        json_->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
      fail("expected a 64-bit integer, got " + json_->dump());
    const auto value = json_->get<std::int64_t>();
    if (value < least)
      fail("expected an integer of at least " + std::to_string(least) + ", got " +
           std::to_string(value));
    return value;
  }
  /// A finite number of 0 or more.
  [[nodiscard]] double magnitude() const {
    require(json_->is_number(), "a number");
    const auto value = json_->get<double>();
    if (!std::isfinite(value) || value < 0) fail("expected a number of 0 or more");
    return value;
  }

  /// Calls `each(reader)` for the items of a list.
  template <typename Each>
  void items(Each each) const {
    const std::size_t count = array_size();
    for (std::size_t i = 0; i < count; ++i) each(at(i));
  }
  /// Calls `each(key, reader)` for the fields of an object.
  template <typename Each>
  void fields(Each each) const {
    require(json_->is_object(), "an object");
    for (const auto& [key, value] : json_->items()) each(key, JsonReader(value, path_ + "." + key));
  }

 private:
  void require(bool good, const char* expected) const {
    if (!good) fail(std::string("expected ") + expected + ", got " + json_->type_name());
  }

  const Json* json_;
  std::string path_;
};

}  // namespace isthmus
