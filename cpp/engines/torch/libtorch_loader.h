#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engines/torch/runtime_library.h"

namespace isthmus::torch_engine {

/// A LibTorch on disk.
struct Location {
  std::filesystem::path libraries;  ///< the folder of libtorch_cpu.so
  std::string version;              ///< read from its files; empty when they do not tell it
  std::string origin;               ///< the place where it was found, for messages
};

/// The LibTorch that this process has opened.
struct Libtorch {
  Location location;
  std::filesystem::path runtime;  ///< our library for its version; not open yet
  void* cpu_handle = nullptr;     ///< libtorch_cpu.so, for dlsym
  /// The reason why its CUDA libraries cannot be opened; empty when they are open or absent.
  std::string cuda_error;
  bool has_cuda_libraries = false;
};

/// Finds LibTorch without opening it, in this order: the copy that the process has already loaded
/// (two copies in one process would break each other), ISTHMUS_LIBTORCH, the folder of the engine
/// library (a deployment), the torch package beside the isthmus package, the folder that isthmus
/// was built with.
std::optional<Location> find_libtorch();

/// Returns the version, such as "2.13.0+cpu", from the files of a LibTorch folder: version.py of
/// the Python package or build-version of the unpacked archive. Empty when there is neither.
std::string read_version(const std::filesystem::path& folder);

/// Returns the files that a deployment must ship: LibTorch's libraries that nothing links to, the
/// file that tells its version, and our own beside the engine. What these link to is not listed.
std::vector<std::filesystem::path> deployed_files(const Location& location);

/// Returns the runtime library that was built for the version of a LibTorch; null without one.
const RuntimeLibrary* fitting_library(const std::vector<RuntimeLibrary>& libraries,
                                      const Location& location);

/// Returns why no runtime library fits a LibTorch, with the commands that mend it.
std::string version_refusal(const std::vector<RuntimeLibrary>& libraries, const Location& location);

/// Finds LibTorch, takes the runtime library for its version and opens LibTorch with its CUDA
/// libraries, once per process.
/// @throws EngineUnavailable with the reason of the first failure, at every call after it.
const Libtorch& open_libtorch();

/// Returns the folder of this engine library.
std::filesystem::path engine_folder();

}  // namespace isthmus::torch_engine
