#include "isthmus/device.h"

#include <charconv>

#include "isthmus/error.h"

namespace isthmus {

std::string_view name(DeviceType type) noexcept {
  return type == DeviceType::kCpu ? "cpu" : "cuda";
}

std::string to_string(Device device) {
  if (device.is_cpu()) return "cpu";
  return "cuda:" + std::to_string(device.index);
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {DeviceType::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (text.starts_with(kPrefix)) {
    const std::string_view digits = text.substr(kPrefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error == std::errc() && end == digits.data() + digits.size() && index >= 0)
      return {DeviceType::kCuda, index};
  }
  throw InvalidInput("device \"" + std::string(text) +
                     "\": expected \"cpu\", \"cuda\" or \"cuda:N\" with N counting from 0");
}

}  // namespace isthmus
