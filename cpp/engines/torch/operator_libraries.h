#pragma once

#include <filesystem>
#include <vector>

namespace isthmus::torch_engine {

/// Opens libraries of custom operators in this order, each once per process.
/// @throws EngineUnavailable naming the library and the loader's reason.
void open_op_libraries(const std::vector<std::filesystem::path>& libraries);

}  // namespace isthmus::torch_engine
