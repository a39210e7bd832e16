#pragma once

// Every source of this engine includes ONNX Runtime through this header. The API is set when the
// shared library is opened; nothing is linked.
#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <string>

#include "isthmus/options.h"

namespace isthmus::onnxruntime_engine {

/// The opened shared library of ONNX Runtime.
struct Library {
  std::filesystem::path path;
  std::string version;  ///< "1.32.0"
  std::string origin;   ///< the place where it was found, for messages
};

/// Finds ONNX Runtime's shared library (see `find_library`; the environment variable is
/// ISTHMUS_ONNXRUNTIME) and opens it, once per process.
/// @throws EngineUnavailable when it is not found, is older than the headers' API, or is not the
/// copy that the process has opened already.
const Library& open_library(const LoadOptions& options);

/// Returns the oldest version of ONNX Runtime that has the headers' API, such as "1.21".
std::string oldest_version();

/// Returns the environment (logging, thread pools) that all sessions of the process share. Call
/// `open_library` first.
Ort::Env& environment();

}  // namespace isthmus::onnxruntime_engine
