#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace isthmus::torch_engine {

/// A LibTorch folder: the one that holds lib/libtorch_cpu.so, or the libraries themselves.
struct Location {
  std::filesystem::path libraries;  ///< the folder of libtorch_cpu.so
  std::string version;              ///< as its own files tell; empty when they do not
  std::string origin;               ///< how it was found, for messages
};

/// What was found when LibTorch was opened.
struct Libtorch {
  Location location;
  void* cpu_handle = nullptr;  ///< libtorch_cpu.so, for dlsym
  std::string cuda_error;      ///< why its CUDA libraries could not be opened; empty: they could,
                               ///< or there are none
  bool has_cuda_libraries = false;
};

/// Finds LibTorch without opening it, in this order: the copy that the process has already loaded
/// (two in one process would break each other), ISTHMUS_LIBTORCH, the folder of the engine library
/// (a deployment), the torch package beside the isthmus package, the folder it was built with.
std::optional<Location> find_libtorch();

/// "2.13.0+cpu" from the files of a LibTorch folder: version.py of the Python package or
/// build-version of the unpacked archive; empty when neither is there.
std::string read_version(const std::filesystem::path& folder);

/// What a deployment ships: LibTorch's main library, the file that tells its version, and our
/// runtime library; what these link against comes with them.
std::vector<std::filesystem::path> deployed_files(const Location& location);

/// Empty when a LibTorch of this version fits this build, else one sentence with the remedy.
std::string version_refusal(const Location& location);

/// Finds LibTorch, checks its version and opens it, CUDA libraries included; once a process.
/// @throws EngineUnavailable, each time again, with the first failure's reason.
const Libtorch& open_libtorch();

/// The folder of this engine library.
std::filesystem::path engine_folder();

}  // namespace isthmus::torch_engine
