#pragma once

#include <set>
#include <string>
#include <string_view>
#include <unordered_set>

#include "core/scan/code_lexer.h"
#include "isthmus/scan.h"

namespace isthmus::detail {

/// What an archive's own code defines.
struct Definitions {
  std::unordered_set<std::string> names;      ///< of methods, attributes, functions and classes
  std::unordered_set<std::string> qualified;  ///< "__torch__.m.Net"
};

/// State of a scan that its parts share.
struct ScanState {
  const std::set<std::string>& allowed_namespaces;
  Definitions definitions;
  ArchiveScan result;

  void refuse(std::string kind, std::string what, std::string where);
  void note(std::string kind, std::string what, std::string where);
};

/// Adds what a code file defines. `module` is its qualified name, "__torch__.m".
void collect_definitions(const Lexed& lexed, const std::string& module, Definitions& definitions);

/// Judges every name in a code file by what it could resolve to; `path` is "code/__torch__/m.py".
void scan_code(const Lexed& lexed, const std::string& path, ScanState& state);

/// Judges the name of a class that a pickle or a type refers to.
void judge_class(std::string_view qualified, const std::string& where, ScanState& state);

}  // namespace isthmus::detail
