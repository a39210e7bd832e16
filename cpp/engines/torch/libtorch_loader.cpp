#include "engines/torch/libtorch_loader.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <fstream>
#include <mutex>

#include "engines/dl_error.h"
#include "engines/torch/python_environment.h"
#include "engines/torch/torch_version.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMainLibrary = "libtorch_cpu.so";

/// Returns the path of libtorch_cpu.so when the process has loaded it already, else an empty path.
fs::path already_loaded() {
  fs::path loaded;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* context) {
        const fs::path path(info->dlpi_name == nullptr ? "" : info->dlpi_name);
        if (path.filename() != kMainLibrary) return 0;
        *static_cast<fs::path*>(context) = path;
        return 1;
      },
      &loaded);
  return loaded;
}

/// Returns the location in a LibTorch folder (with lib/) or in a plain folder of libraries.
std::optional<Location> location_in(const fs::path& folder, const std::string& origin) {
  if (folder.empty()) return std::nullopt;
  std::error_code ignored;
  if (fs::exists(folder / "lib" / kMainLibrary, ignored))
    return Location{folder / "lib", read_version(folder), origin};
  if (fs::exists(folder / kMainLibrary, ignored)) {
    // A deployment has all its libraries in one folder.
    const std::string own = read_version(folder);
    return Location{folder, own.empty() ? read_version(folder.parent_path()) : own, origin};
  }
  return std::nullopt;
}

void* open_library(const fs::path& path) {
  // RTLD_GLOBAL, because libraries of custom operators may be linked without naming LibTorch.
  return dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

/// Returns how to get a LibTorch that one of the runtime libraries fits.
std::string how_to_get(const std::vector<RuntimeLibrary>& libraries,
                       const std::string& option = {}) {
  const std::string& newest = libraries.back().torch;
  const auto environment = python_environment(engine_folder());
  if (!environment) return "set ISTHMUS_LIBTORCH to the folder of an unpacked LibTorch " + newest;
  return "`" + install_command(*environment, "torch==" + newest + ".*", option) + "`";
}

Libtorch open_now() {
  const auto libraries = runtime_libraries(engine_folder());
  if (libraries.empty())
    throw EngineUnavailable("there is no engines/torch-*/libisthmus_libtorch.so in " +
                            engine_folder().string() +
                            ": isthmus was built without LibTorch, or "
                            "copied in part");
  const auto location = find_libtorch();
  if (!location) {
    const char* variable = std::getenv("ISTHMUS_LIBTORCH");
    throw EngineUnavailable(
        "LibTorch was not found: isthmus was built for torch " + torch_versions(libraries) +
        (variable != nullptr ? ", and ISTHMUS_LIBTORCH=" + std::string(variable) +
                                   " holds no lib/libtorch_cpu.so; correct the variable, or unset "
                                   "it and get LibTorch: "
                             : std::string("; get it: ")) +
        how_to_get(libraries));
  }
  const RuntimeLibrary* fitting = fitting_library(libraries, *location);
  if (fitting == nullptr) throw EngineUnavailable(version_refusal(libraries, *location));

  Libtorch libtorch;
  libtorch.location = *location;
  libtorch.runtime = fitting->file;
  const fs::path& folder = location->libraries;
  for (const char* name : {"libc10.so", kMainLibrary}) {
    void* handle = open_library(folder / name);
    if (handle == nullptr) {
      throw EngineUnavailable("LibTorch in " + folder.string() +
                              " cannot be opened: " + dl_error() +
                              "; get it again: " + how_to_get({*fitting}, "--force-reinstall"));
    }
    libtorch.cpu_handle = handle;
  }
  // No library refers to these by symbol, so they must be opened here. If that fails, the CPU
  // works.
  std::error_code ignored;
  for (const char* name : {"libc10_cuda.so", "libtorch_cuda.so"}) {
    if (!fs::exists(folder / name, ignored)) continue;
    libtorch.has_cuda_libraries = true;
    if (libtorch.cuda_error.empty() && open_library(folder / name) == nullptr) {
      libtorch.cuda_error = dl_error();
    }
  }
  return libtorch;
}

}  // namespace

fs::path engine_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&open_libtorch), &info) == 0) return {};
  std::error_code ignored;
  return fs::canonical(info.dli_fname, ignored).parent_path();
}

std::string read_version(const fs::path& folder) {
  if (std::ifstream package(folder / "version.py"); package) {
    for (std::string line; std::getline(package, line);) {
      constexpr std::string_view kStart = "__version__ = '";
      if (line.starts_with(kStart)) {
        const std::string rest = line.substr(kStart.size());
        return rest.substr(0, rest.find('\''));
      }
    }
  }
  std::string version;
  if (std::ifstream archive(folder / "build-version"); archive) archive >> version;
  return version;
}

std::optional<Location> find_libtorch() {
  if (const fs::path loaded = already_loaded(); !loaded.empty())
    return Location{loaded.parent_path(), read_version(loaded.parent_path().parent_path()),
                    "already loaded by this process"};
  if (const char* variable = std::getenv("ISTHMUS_LIBTORCH"))
    // An explicit choice is never replaced by another copy.
    return location_in(variable, "ISTHMUS_LIBTORCH");
  const fs::path here = engine_folder();
  if (auto location = location_in(here, "beside the engine")) return location;
  if (auto location = location_in(here.parent_path().parent_path() / "torch", "the torch package"))
    return location;
  return location_in(ISTHMUS_TORCH_DIRECTORY, "the folder isthmus was built with");
}

std::vector<fs::path> deployed_files(const Location& location) {
  const fs::path package = location.libraries.parent_path();
  std::vector<fs::path> optional{
      location.libraries / "libtorch.so", location.libraries / "libtorch_cuda.so",
      location.libraries / "version.py", package / "version.py", package / "build-version"};
  std::vector<fs::path> files{location.libraries / kMainLibrary};
  if (const auto libraries = runtime_libraries(engine_folder());
      const RuntimeLibrary* fitting = fitting_library(libraries, location)) {
    files.push_back(fitting->file);
    optional.push_back(fitting->file.parent_path() / "libisthmus_without_python.so");
  }
  std::error_code ignored;
  for (const fs::path& file : optional)
    if (fs::exists(file, ignored)) files.push_back(file);
  return files;
}

const RuntimeLibrary* fitting_library(const std::vector<RuntimeLibrary>& libraries,
                                      const Location& location) {
  // A LibTorch that does not tell its version may be the only one that is built for.
  if (location.version.empty()) return libraries.size() == 1 ? libraries.data() : nullptr;
  for (const RuntimeLibrary& library : libraries)
    if (library.torch == minor_version(location.version)) return &library;
  return nullptr;
}

std::string version_refusal(const std::vector<RuntimeLibrary>& libraries,
                            const Location& location) {
  const std::string found = "isthmus was built for torch " + torch_versions(libraries) +
                            ", found torch " +
                            (location.version.empty() ? "without a version" : location.version) +
                            " in " + location.libraries.string() + " (" + location.origin + "): ";
  const auto environment = python_environment(engine_folder());
  const std::string rebuild = environment ? rebuild_command(*environment) : std::string();
  const bool named = std::getenv("ISTHMUS_LIBTORCH") != nullptr;
  return found +
         (named ? "unset ISTHMUS_LIBTORCH, or let it name a LibTorch that fits"
                : "get one that fits: " + how_to_get(libraries)) +
         (rebuild.empty() ? std::string() : ", or build isthmus for this one: `" + rebuild + "`");
}

const Libtorch& open_libtorch() {
  struct Attempt {
    std::once_flag once;
    Libtorch libtorch;
    std::string failure;
  };
  // Leaked on purpose: LibTorch stays open until the process ends.
  static Attempt& attempt = *new Attempt;  // NOLINT(cppcoreguidelines-owning-memory)
  std::call_once(attempt.once, [] {
    try {
      attempt.libtorch = open_now();
    } catch (const EngineUnavailable& error) {
      attempt.failure = error.what();
    }
  });
  if (!attempt.failure.empty()) throw EngineUnavailable(attempt.failure);
  return attempt.libtorch;
}

}  // namespace isthmus::torch_engine
