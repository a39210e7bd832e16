#include "core/bundle/served_cases.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

double number_of(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::kBool:
      return *tensor.data_as<bool>() ? 1.0 : 0.0;
    case DType::kInt64:
      return static_cast<double>(*tensor.data_as<std::int64_t>());
    default:
      return *tensor.data_as<double>();
  }
}

std::string named(const std::string& name, double value) {
  std::ostringstream text;
  text.precision(17);
  text << name << '=' << value;
  return text.str();
}

std::string text_of(const ServedCase& served) {
  std::vector<std::string> parts;
  for (const auto& [name, size] : served.sizes) parts.push_back(name + "=" + std::to_string(size));
  for (const auto& [name, number] : served.numbers) parts.push_back(named(name, number));
  return joined(parts, [](const std::string& part) { return part; });
}

}  // namespace

std::string served_text(const Signature& signature) {
  std::string text;
  for (const ServedCase& served_case : signature.served)
    text += (text.empty() ? "" : "; or ") + text_of(served_case);
  return text;
}

void check_served(const Signature& signature, std::span<const Tensor> inputs,
                  const SizeOf& size_of) {
  const auto number = [&](const std::string& name) -> std::optional<double> {
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (signature.inputs[i].name == name && inputs[i].defined()) return number_of(inputs[i]);
    return std::nullopt;
  };
  const auto fits = [&](const ServedCase& served) {
    return std::all_of(served.sizes.begin(), served.sizes.end(),
                       [&](const auto& entry) {
                         const auto size = size_of(entry.first);
                         return !size || *size == entry.second;
                       }) &&
           std::all_of(served.numbers.begin(), served.numbers.end(), [&](const auto& entry) {
             const auto value = number(entry.first);
             return !value || *value == entry.second;
           });
  };
  if (std::any_of(signature.served.begin(), signature.served.end(), fits)) return;
  ServedCase given = signature.served.front();
  for (auto& [name, size] : given.sizes) size = size_of(name).value_or(size);
  for (auto& [name, value] : given.numbers) value = number(name).value_or(value);
  throw InvalidInput("\"" + signature.method + "\" was called with " + text_of(given) +
                     ", which the model does not take together; expected " +
                     served_text(signature) +
                     ". For another combination, export again with an example of it");
}

}  // namespace isthmus::detail
