#pragma once

#include <string_view>

#include "isthmus/bundle.h"

namespace isthmus::detail {

inline constexpr int kFormatVersion = 1;
inline constexpr std::uint64_t kMaxManifestBytes = 16u << 20;

/// Parses and validates a manifest as docs/format.md describes it; `label` names it in errors.
/// @throws BundleError naming the JSON path, what was expected and what stands there.
Manifest parse_manifest(std::string_view text, std::string_view label);

}  // namespace isthmus::detail
