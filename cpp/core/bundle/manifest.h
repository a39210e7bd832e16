#pragma once

#include <string_view>

#include "isthmus/bundle.h"

namespace isthmus::detail {

inline constexpr int kFormatVersion = 1;
inline constexpr std::uint64_t kMaxManifestBytes = 16u << 20;

/// Parses and validates a manifest, see docs/format.md.
/// @param label  names the manifest in errors
/// @throws BundleError with the JSON path, what was expected, and the value.
Manifest parse_manifest(std::string_view text, std::string_view label);

}  // namespace isthmus::detail
