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

/// One finding of a scan.
struct Finding {
  std::string what;     ///< such as "operator aten::save writes files"
  std::string where;    ///< such as "code/__torch__/m.py:12"
  bool refused = true;  ///< false for a note, such as a device literal or a random operator
  std::string
      kind;  ///< "operator", "zip", "pickle", "format", "device_literal", "dtype_literal", ...
};

/// Returns true when at least one finding is refused.
ISTHMUS_API bool any_refused(const std::vector<Finding>& findings) noexcept;

/// Returns a line for each refused finding.
ISTHMUS_API std::string describe_refused(const std::vector<Finding>& findings);

/// The content of a TorchScript archive.
struct ArchiveScan {
  std::string format;                             ///< "torchscript" or "torchscript_flatbuffer"
  std::int64_t file_format_version = 0;           ///< the archive's "version" record
  std::map<std::string, std::int64_t> operators;  ///< "aten::linear" -> occurrences in the code
  std::map<std::string, std::string> code;        ///< "code/__torch__/m.py" -> source
  std::set<std::string> unknown_namespaces;       ///< operator namespaces that need a library
  std::vector<Finding>
      findings;  ///< at most 1000 refusals and 1000 notes; then the rest is counted
  [[nodiscard]] ISTHMUS_API bool refused() const noexcept;
  /// Returns a line for each refused finding.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// Scans a TorchScript archive without executing anything. The container must be as torch.jit.save
/// writes it: only code is deflated, names are distinct, local and central headers agree, nothing
/// overlaps, and counts and sizes are limited. Operators must be on a list of pure ones
/// (docs/security.md), in `__setstate__` too. Defects of the archive become findings, not
/// exceptions.
/// @param allowed_namespaces  operator namespaces whose libraries the caller loads
ISTHMUS_API ArchiveScan scan_torchscript(std::span<const std::byte> archive,
                                         const std::set<std::string>& allowed_namespaces = {});

/// The content of an ONNX file.
struct OnnxScan {
  std::int64_t ir_version = 0;
  std::map<std::string, std::int64_t> opsets;     ///< domain ("" is ONNX's own) -> version
  std::map<std::string, std::int64_t> operators;  ///< "LayerNormalization", "my.domain::Op"
  std::vector<std::string> inputs;                ///< names, without those of initializers
  std::vector<std::string> outputs;               ///< names
  std::set<std::string> external_files;           ///< files that the model names for its weights
  std::vector<Finding> findings;
  [[nodiscard]] ISTHMUS_API bool refused() const noexcept;
  /// Returns a line for each refused finding.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// Scans an ONNX file without executing anything. Graphs may be nested 64 deep; operators that
/// carry a program for one runtime (EPContext, PythonOp) are refused. Defects of the file become
/// findings, not exceptions. Wire format: https://protobuf.dev/programming-guides/encoding; fields:
/// onnx.proto of ONNX 1.18.
/// @param allowed_files  names, without folders, of the files that may hold weights
/// @param allowed_domains  operator domains that are allowed besides those of ONNX, ONNX Runtime
/// and
///     the functions of the file
ISTHMUS_API OnnxScan scan_onnx(std::span<const std::byte> file,
                               const std::set<std::string>& allowed_files = {},
                               const std::set<std::string>& allowed_domains = {});

}  // namespace isthmus
