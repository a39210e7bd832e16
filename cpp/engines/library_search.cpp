#include "engines/library_search.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <vector>

#include "isthmus/error.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;

/// Returns the numbers of a dotted version.
std::vector<int> numbers(const std::string& version) {
  std::vector<int> parts;
  for (std::size_t at = 0; at < version.size();) {
    if (version[at] < '0' || version[at] > '9') break;
    std::size_t used = 0;
    parts.push_back(std::stoi(version.substr(at, 9), &used));
    at += used;
    if (at < version.size() && version[at] == '.') ++at;
  }
  return parts;
}

/// Returns the library in a folder: the plain name, or the newest version of it.
std::optional<fs::path> library_in(const fs::path& folder, std::string_view name) {
  std::error_code ignored;
  if (folder.empty()) return std::nullopt;
  if (fs::exists(folder / name, ignored)) return folder / name;
  const std::string prefix = std::string(name) + ".";
  const auto version = [&](const fs::path& file) {
    return numbers(file.filename().string().substr(prefix.size()));
  };
  std::optional<fs::path> newest;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().starts_with(prefix) &&
        (!newest || version(*newest) < version(entry.path())))
      newest = entry.path();
  return newest;
}

/// Returns the library that the caller named by file or folder. An explicit choice is never
/// replaced.
/// @throws EngineUnavailable.
LibraryCandidate named_library(const fs::path& path, const std::string& origin,
                               std::string_view name) {
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    throw EngineUnavailable(origin + "=" + path.string() + " is not there; name " +
                            std::string(name) + ", or the folder that it lies in");
  if (!fs::is_directory(path, ignored)) return {path, origin};
  for (const fs::path& folder : {path, path / "lib"})
    if (auto file = library_in(folder, name)) return {*file, origin};
  throw EngineUnavailable(origin + "=" + path.string() + " holds no " + std::string(name) +
                          "; name the library, or the folder that it lies in");
}

}  // namespace

LibraryCandidate find_library(const LibrarySearch& search, const LoadOptions& options) {
  const auto given = options.engine_options.find("library");
  if (given != options.engine_options.end())
    return named_library(given->second, "engine option library", search.name);
  if (const char* value = std::getenv(search.variable))
    return named_library(value, search.variable, search.name);
  const fs::path here = library_file(reinterpret_cast<const void*>(&find_library)).parent_path();
  if (auto file = library_in(here, search.name)) return {*file, "beside the engine"};
  // .../site-packages/isthmus/lib -> .../site-packages/PACKAGE
  const fs::path beside = here.parent_path().parent_path() / search.package;
  if (auto file = library_in(beside, search.name)) return {*file, "the installed Python package"};
  if (auto file = library_in(search.built_with, search.name))
    return {*file, "the package of the Python that isthmus was built with"};
  return {search.name, "the system"};
}

void require_same_library(const LibrarySearch& search, const LoadOptions& options,
                          const fs::path& opened, const std::string& origin) {
  const auto given = options.engine_options.find("library");
  if (given == options.engine_options.end()) return;
  std::error_code ignored;
  const LibraryCandidate wanted =
      named_library(given->second, "engine option library", search.name);
  if (fs::canonical(wanted.path, ignored) == opened) return;
  throw EngineUnavailable("engine option library=" + given->second + ": the process runs " +
                          opened.string() + " (" + origin +
                          ") already, and one process has one copy; load this model in a process "
                          "of its own");
}

std::vector<fs::path> files_beside(const fs::path& library, const std::vector<std::string>& names) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(library.parent_path(), ignored))
    for (const std::string& name : names)
      if (entry.path().filename().string().starts_with(name)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

fs::path library_file(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code ignored;
  const fs::path file = fs::canonical(info.dli_fname, ignored);
  return file.empty() ? fs::path(info.dli_fname) : file;
}

std::string major_of(const std::string& version) {
  return version.substr(0, version.find('.'));
}

bool older(const std::string& version, const std::string& other) {
  return numbers(version) < numbers(other);
}

}  // namespace isthmus
