#include <algorithm>
#include <string>

#include "core/text.h"
#include "isthmus/bundle.h"
#include "isthmus/signature.h"

namespace isthmus {

bool DimRange::allows(std::int64_t size) const {
  if (size < min || size > max) return false;
  return sizes.empty() || std::binary_search(sizes.begin(), sizes.end(), size);
}

std::string DimRange::text() const {
  if (sizes.empty()) return std::to_string(min) + " to " + std::to_string(max);
  std::string result;
  for (auto first = sizes.begin(); first != sizes.end();) {
    auto last = first;
    while (last + 1 != sizes.end() && *(last + 1) == *last + 1) ++last;
    const bool run = last - first > 1;  // two sizes are named one by one
    if (!run) last = first;
    result += (result.empty() ? "" : " or ") + std::to_string(*first) +
              (run ? " to " + std::to_string(*last) : "");
    first = last + 1;
  }
  return result;
}

bool Artifact::serves(const Golden& golden) const {
  return std::all_of(sizes.begin(), sizes.end(), [&](const auto& entry) {
    const auto size = golden.dims.find(entry.first);
    return size == golden.dims.end() || entry.second.allows(size->second);
  });
}

std::string Artifact::sizes_text() const {
  return detail::joined(sizes, [](const auto& entry) {
    return entry.second.text() + " of " + detail::in_quotes(entry.first);
  });
}

std::vector<const Golden*> Manifest::goldens_of(const Artifact& artifact) const {
  std::vector<const Golden*> served;
  for (const Golden& golden : goldens)
    if (artifact.serves(golden)) served.push_back(&golden);
  return served;
}

}  // namespace isthmus
