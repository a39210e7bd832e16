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

/// Whether one of them is refused.
ISTHMUS_API bool any_refused(const std::vector<Finding>& findings) noexcept;

/// The refused ones, a line each.
ISTHMUS_API std::string describe_refused(const std::vector<Finding>& findings);

/// What a TorchScript archive holds, read as text and never executed.
struct ArchiveScan {
  std::string format;                             ///< as IdentifiedFile::kind
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

/// What an ONNX file holds, read as a protocol buffer and never executed.
struct OnnxScan {
  std::int64_t ir_version = 0;
  std::map<std::string, std::int64_t> opsets;     ///< domain ("" is ONNX's own) -> version
  std::map<std::string, std::int64_t> operators;  ///< "LayerNormalization", "my.domain::Op"
  std::vector<std::string> inputs;                ///< names, initializers left out
  std::vector<std::string> outputs;               ///< names
  std::set<std::string> external_files;           ///< files that hold weights, as the model says
  std::vector<Finding> findings;
  [[nodiscard]] ISTHMUS_API bool refused() const noexcept;
  /// The refused findings, a line each.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// Scans an ONNX file: nested at most 64 deep, weights inside the file or in one of
/// `allowed_files` (plain names, no folders), no operator that carries a program for one runtime
/// (EPContext, PythonOp), and no domain of operators that neither ONNX, ONNX Runtime nor a function
/// of the file defines, unless `allowed_domains` has it.
/// Wire format: https://protobuf.dev/programming-guides/encoding; fields: onnx.proto of ONNX 1.18.
/// @throws nothing about content: what is wrong is a finding.
ISTHMUS_API OnnxScan scan_onnx(std::span<const std::byte> file,
                               const std::set<std::string>& allowed_files = {},
                               const std::set<std::string>& allowed_domains = {});

}  // namespace isthmus
