#pragma once

#include <string>

namespace isthmus::torch_engine {

/// Returns "2.13" for "2.13.0+cpu": the part of a version within which LibTorch keeps its binary
/// interface.
inline std::string minor_version(const std::string& version) {
  const auto first = version.find('.');
  if (first == std::string::npos) return version;
  return version.substr(0, version.find_first_not_of("0123456789", first + 1));
}

}  // namespace isthmus::torch_engine
