#include "engines/torch/libtorch_loader.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <fstream>
#include <mutex>

#include "engines/dl_error.h"
#include "engines/torch/torch_version.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMainLibrary = "libtorch_cpu.so";

/// Returns "2.13.0" for "2.13.0+cpu", the version that `pip install torch==` takes.
std::string plain(const std::string& version) {
  return version.substr(0, version.find('+'));
}

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

Libtorch open_now() {
  const auto location = find_libtorch();
  const std::string built = ISTHMUS_TORCH_VERSION;
  if (!location) {
    const char* variable = std::getenv("ISTHMUS_LIBTORCH");
    throw EngineUnavailable("LibTorch was not found" +
                            (variable != nullptr ? " (ISTHMUS_LIBTORCH=" + std::string(variable) +
                                                       " holds no lib/libtorch_cpu.so)"
                                                 : std::string()) +
                            ": isthmus was built for torch " + built +
                            "; install it with `pip install torch==" + plain(built) +
                            "`, or set ISTHMUS_LIBTORCH to an unpacked LibTorch");
  }
  if (const std::string refusal = version_refusal(*location); !refusal.empty())
    throw EngineUnavailable(refusal);

  Libtorch libtorch;
  libtorch.location = *location;
  const fs::path& folder = location->libraries;
  for (const char* name : {"libc10.so", kMainLibrary}) {
    void* handle = open_library(folder / name);
    if (handle == nullptr) {
      throw EngineUnavailable(
          "LibTorch in " + folder.string() + " cannot be opened: " + dl_error() +
          "; install it again with `pip install --force-reinstall torch==" + plain(built) + "`");
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
  std::vector<fs::path> files{engine_folder() / "libisthmus_libtorch.so",
                              location.libraries / kMainLibrary};
  std::error_code ignored;
  for (const fs::path& file :
       {location.libraries / "libtorch_cuda.so", location.libraries / "version.py",
        location.libraries.parent_path() / "version.py",
        location.libraries.parent_path() / "build-version"})
    if (fs::exists(file, ignored)) files.push_back(file);
  return files;
}

std::string version_refusal(const Location& location) {
  const std::string built = ISTHMUS_TORCH_VERSION;
  if (location.version.empty() || minor_version(location.version) == minor_version(built))
    return {};
  return "isthmus was built for torch " + built + ", found torch " + location.version + " in " +
         location.libraries.string() + " (" + location.origin +
         "): install the one that fits with `pip install torch==" + plain(built) +
         "`, or build isthmus for this one with `pip install --force-reinstall --no-deps "
         "--no-build-isolation isthmus`";
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
