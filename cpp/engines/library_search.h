#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/options.h"

namespace isthmus {

/// Where an engine that opens its runtime at run time looks for the shared library.
struct LibrarySearch {
  std::string_view name;        ///< "libonnxruntime.so": this name, or this name with a version
  const char* variable = "";    ///< environment variable that names the file or its folder
  std::string_view package;     ///< its folder beneath Python's site-packages
  std::string_view built_with;  ///< its folder in the Python that isthmus was built with
};

/// A library that was found; not opened yet.
struct LibraryCandidate {
  std::filesystem::path path;
  std::string origin;  ///< how it was found, for messages
};

/// Finds the library, in this order: the engine option `library` (file or folder), the environment
/// variable, the folder of the engine (a deployment), the Python package beside isthmus, that of
/// the Python isthmus was built with, the system's library path (the plain name).
/// @throws EngineUnavailable when the option or the variable names nothing.
LibraryCandidate find_library(const LibrarySearch& search, const LoadOptions& options);

/// One process has one copy of a runtime.
/// @throws EngineUnavailable when the engine option `library` names another than the opened one.
void require_same_library(const LibrarySearch& search, const LoadOptions& options,
                          const std::filesystem::path& opened, const std::string& origin);

/// Files in the folder of `library` whose names start with one of these.
std::vector<std::filesystem::path> files_beside(const std::filesystem::path& library,
                                                const std::vector<std::string>& names);

/// The file that holds this address.
std::filesystem::path library_file(const void* address);

/// "1" of "1.32.0".
std::string major_of(const std::string& version);

/// Whether a dotted version comes before another: "1.9.2" before "1.21".
bool older(const std::string& version, const std::string& other);

}  // namespace isthmus
