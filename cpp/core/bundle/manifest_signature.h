#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/files/json_reader.h"
#include "isthmus/signature.h"

namespace isthmus::detail {

using DimRanges = std::map<std::string, DimRange, std::less<>>;

/// The "dims" of a manifest. @throws JsonError.
DimRanges parse_dims(const JsonReader& json);

/// The "methods" of a manifest, "forward" first when there is one. @throws JsonError.
std::vector<Signature> parse_methods(const JsonReader& json, const DimRanges& dims);

}  // namespace isthmus::detail
