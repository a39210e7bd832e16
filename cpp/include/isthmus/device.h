#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "isthmus/export.h"

namespace isthmus {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

/// Where a tensor lives or a model runs. `index` counts the devices of one type from 0; for the CPU
/// it is 0.
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  [[nodiscard]] bool is_cpu() const noexcept { return type == DeviceType::kCpu; }
  [[nodiscard]] bool is_cuda() const noexcept { return type == DeviceType::kCuda; }
  friend bool operator==(const Device&, const Device&) = default;
};

/// "cpu" or "cuda:0".
ISTHMUS_API std::string to_string(Device device);

/// "cpu" or "cuda": the name of the type without the index.
ISTHMUS_API std::string_view name(DeviceType type) noexcept;

/// Parses "cpu", "cuda" (index 0) or "cuda:N".
/// @throws InvalidInput for anything else.
ISTHMUS_API Device parse_device(std::string_view text);

}  // namespace isthmus
