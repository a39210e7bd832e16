#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/files/json_reader.h"
#include "isthmus/signature.h"

namespace isthmus::detail {

using DimRanges = std::map<std::string, DimRange, std::less<>>;

/// Parses the "dims" of a manifest. @throws JsonError.
DimRanges parse_dims(const JsonReader& json);

/// Parses the "methods" of a manifest. "forward" comes first when there is one. @throws JsonError.
std::vector<Signature> parse_methods(const JsonReader& json, const DimRanges& dims);

}  // namespace isthmus::detail
