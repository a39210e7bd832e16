#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace isthmus::torch_engine {

/// A library that links LibTorch. An installation may have one for each of several versions.
struct RuntimeLibrary {
  std::string torch;  ///< the minor version of torch that it was built for, such as "2.13"
  std::filesystem::path file;
};

/// Returns engines/torch-*/libisthmus_libtorch.so of a folder of engines, the oldest torch first.
std::vector<RuntimeLibrary> runtime_libraries(const std::filesystem::path& engines);

/// Returns "2.13 and 2.14" for the libraries; "none" when there are none.
std::string torch_versions(const std::vector<RuntimeLibrary>& libraries);

}  // namespace isthmus::torch_engine
