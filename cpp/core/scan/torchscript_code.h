#pragma once

#include <set>
#include <string>
#include <string_view>
#include <unordered_set>

#include "core/scan/code_lexer.h"
#include "isthmus/scan.h"

namespace isthmus::detail {

/// The names that an archive's own code defines.
struct Definitions {
  std::unordered_set<std::string> names;      ///< of methods, attributes, functions and classes
  std::unordered_set<std::string> qualified;  ///< "__torch__.m.Net"
};

/// The state that the parts of a scan share.
struct ScanState {
  const std::set<std::string>& allowed_namespaces;
  Definitions definitions;
  ArchiveScan result;
  std::size_t refusals = 0;
  std::size_t notes = 0;

  /// Add a finding. Of each sort only the first 1000 are kept, and `finish` reports the others.
  void refuse(std::string kind, std::string what, std::string where);
  void note(std::string kind, std::string what, std::string where);

  /// Adds the numbers of findings that were left out.
  void finish();
};

/// Adds the names that a code file defines.
/// @param module  the qualified name of the file, "__torch__.m"
void collect_definitions(const Lexed& lexed, const std::string& module, Definitions& definitions);

/// Judges every name in a code file by what it could resolve to.
/// @param path  such as "code/__torch__/m.py"
void scan_code(const Lexed& lexed, const std::string& path, ScanState& state);

/// Judges a class name in a pickle or a type.
void judge_class(std::string_view qualified, const std::string& where, ScanState& state);

}  // namespace isthmus::detail
