#include "engines/torch/operator_libraries.h"

#include <dlfcn.h>
#include <link.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "engines/dl_error.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

namespace fs = std::filesystem;

void* open_library(const fs::path& path) {
  return dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

fs::path folder_of(const void* function) {
  Dl_info info{};
  return dladdr(function, &info) == 0 ? fs::path() : fs::path(info.dli_fname).parent_path();
}

/// Returns true when the process has Python in it, as an executable or as a library.
bool has_python() {
  if (dlsym(RTLD_DEFAULT, "Py_IsInitialized") != nullptr) return true;
  const auto is_python = [](dl_phdr_info* info, std::size_t, void*) {
    const fs::path path(info->dlpi_name == nullptr ? "" : info->dlpi_name);
    return path.filename().string().starts_with("libpython") ? 1 : 0;
  };
  return dl_iterate_phdr(is_python, nullptr) != 0;
}

/// Opens the libraries that a Python package's library of operators names beside LibTorch's own
/// parts: libtorch.so, which only refers to these, and libtorch_python.so. Without Python the
/// latter cannot be opened. Most packages use nothing of it, and an empty library of that name
/// serves them.
void open_named_by_packages() {
  const fs::path libtorch =
      folder_of(reinterpret_cast<const void*>(&torch::jit::getAllOperatorsFor));
  const fs::path own = folder_of(reinterpret_cast<const void*>(&open_op_libraries));
  open_library(libtorch / "libtorch.so");
  open_library(has_python() ? libtorch / "libtorch_python.so"
                            : own / "libisthmus_without_python.so");
}

/// Returns what to do about a library that the loader refused for this reason.
std::string remedy_for(const std::string& reason) {
  for (const char* symbol : {"undefined symbol: Py", "undefined symbol: _Py"})
    if (reason.find(symbol) != std::string::npos)
      return "it calls Python, which this process does not have: load the bundle in Python, or get "
             "the operators in a library that is built without Python";
  return "give the path of a library built against this torch";
}

}  // namespace

void open_op_libraries(const std::vector<fs::path>& libraries) {
  for (const auto& library : libraries) {
    // The loader searches for plain names, and counts repeated opening.
    if (open_library(library) != nullptr) continue;
    open_named_by_packages();
    if (open_library(library) != nullptr) continue;
    const std::string reason = dl_error();
    throw EngineUnavailable("operator library \"" + library.string() +
                            "\" cannot be opened: " + reason + "; " + remedy_for(reason));
  }
}

}  // namespace isthmus::torch_engine
