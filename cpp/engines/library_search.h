#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/options.h"

namespace isthmus {

/// The places where an engine looks for the shared library of its runtime.
struct LibrarySearch {
  std::string_view name;        ///< "libonnxruntime.so"; a version may follow the name
  const char* variable = "";    ///< environment variable that names the file or its folder
  std::string_view package;     ///< the folder beneath Python's site-packages
  std::string_view built_with;  ///< the folder in the Python that isthmus was built with
};

/// A library on disk that is not opened yet.
struct LibraryCandidate {
  std::filesystem::path path;
  std::string origin;  ///< the place where it was found, for messages
};

/// Finds the library in this order: the engine option `library` (file or folder), the environment
/// variable, the folder of the engine (a deployment), the Python package beside isthmus, the
/// package of the Python that isthmus was built with, the system's library path (the plain name).
/// @throws EngineUnavailable when the library is not where the option or the variable says.
LibraryCandidate find_library(const LibrarySearch& search, const LoadOptions& options);

/// Requires that the engine option `library` names no other library than the opened one: a process
/// has one copy of a runtime.
/// @throws EngineUnavailable.
void require_same_library(const LibrarySearch& search, const LoadOptions& options,
                          const std::filesystem::path& opened, const std::string& origin);

/// Returns the files in the folder of `library` whose names start with one of these, sorted.
std::vector<std::filesystem::path> files_beside(const std::filesystem::path& library,
                                                const std::vector<std::string>& names);

/// Returns the library file that was loaded at this address; empty when there is none.
std::filesystem::path library_file(const void* address);

/// Returns "1" for "1.32.0".
std::string major_of(const std::string& version);

/// Returns true when a dotted version precedes another, as "1.9.2" precedes "1.21".
bool older(const std::string& version, const std::string& other);

}  // namespace isthmus
