#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// One thing a scan found, and where.
struct Finding {
  std::string what;     ///< "operator aten::save writes files"
  std::string where;    ///< "code/__torch__/m.py:12"
  bool refused = true;  ///< false: allowed, but worth knowing (a device literal, a random operator)
  std::string
      kind;  ///< "operator", "zip", "pickle", "format", "device_literal", "dtype_literal", ...
};

/// What a TorchScript archive holds, read as text and never executed.
struct ArchiveScan {
  std::string format;                             ///< as Sniffed::kind
  std::int64_t file_format_version = 0;           ///< the archive's "version" record
  std::map<std::string, std::int64_t> operators;  ///< "aten::linear" -> occurrences in the code
  std::map<std::string, std::string> code;        ///< "code/__torch__/m.py" -> source
  std::set<std::string> unknown_namespaces;       ///< operator namespaces that need a library
  std::vector<Finding> findings;
  [[nodiscard]] ISTHMUS_API bool refused() const noexcept;
  /// The refused findings, a line each.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// Scans a TorchScript archive. Strict about the container: stored entries only, no duplicate
/// names, local and central headers that agree, no overlap, capped counts and sizes; strict about
/// operators: an allowlist of pure ones (docs/security.md), everything else is refused, in
/// `__setstate__` too. `allowed_namespaces`: namespaces whose libraries the caller loads.
/// @throws nothing about content: what is wrong is a finding.
ISTHMUS_API ArchiveScan scan_torchscript(std::span<const std::byte> archive,
                                         const std::set<std::string>& allowed_namespaces = {});

}  // namespace isthmus
