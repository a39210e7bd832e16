#pragma once

// Every source of this engine includes ONNX Runtime through this header: the API is filled in when
// the shared library is opened, never by a linker.
#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <string>

#include "isthmus/options.h"

namespace isthmus::onnxruntime_engine {

/// The shared library of ONNX Runtime, opened.
struct Library {
  std::filesystem::path path;  ///< the file itself
  std::string version;         ///< "1.32.0"
  std::string origin;          ///< how it was found, for messages
};

/// Finds ONNX Runtime's shared library and opens it, once a process. Sought in this order, the
/// first that is there being the one: the engine option `library` (file or folder),
/// ISTHMUS_ONNXRUNTIME (file or folder), the folder of this engine (a deployment), the installed
/// onnxruntime or onnxruntime-gpu package beside isthmus or of the Python it was built with, the
/// system's library path.
/// @throws EngineUnavailable: not found, older than the headers' API, or another copy than the one
/// that the process has opened already.
const Library& open_library(const LoadOptions& options);

/// The headers' API version as a version of ONNX Runtime, "1.21".
std::string oldest_version();

/// The one environment of the process: logging, thread pools. After `open_library`.
Ort::Env& environment();

}  // namespace isthmus::onnxruntime_engine
