#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "isthmus/export.h"

namespace isthmus {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

/// The device of a tensor or a model. `index` counts the devices of one type from 0, and is 0 for
/// the CPU.
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  [[nodiscard]] bool is_cpu() const noexcept { return type == DeviceType::kCpu; }
  [[nodiscard]] bool is_cuda() const noexcept { return type == DeviceType::kCuda; }
  friend bool operator==(const Device&, const Device&) = default;
};

/// Returns "cpu" or "cuda:0".
ISTHMUS_API std::string to_string(Device device);

/// Returns "cpu" or "cuda".
ISTHMUS_API std::string_view name(DeviceType type) noexcept;

/// Parses "cpu", "cuda" (index 0) or "cuda:N".
/// @throws InvalidInput for anything else.
ISTHMUS_API Device parse_device(std::string_view text);

}  // namespace isthmus
