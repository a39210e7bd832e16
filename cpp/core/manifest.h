#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "isthmus/bundle.h"

namespace isthmus {

inline constexpr int kFormatVersion = 1;
inline constexpr const char* kManifestName = "manifest.json";
inline constexpr std::uint64_t kMaxManifestBytes = 16U << 20;

/// Parses and validates manifest.json (docs/format.md). `label` names the file in messages.
/// @throws BundleError naming the place, what was expected and what came.
Manifest parse_manifest(std::span<const std::byte> bytes, const std::string& label);

}  // namespace isthmus
