#include "engines/torch/runtime_library.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace isthmus::torch_engine {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFolder = "torch-";

/// Returns {2, 13} for "2.13", to sort by.
std::pair<int, int> numbers(const std::string& version) {
  std::pair<int, int> parts{0, 0};
  const char* end = version.data() + version.size();
  const char* point = std::from_chars(version.data(), end, parts.first).ptr;
  if (point != end) std::from_chars(point + 1, end, parts.second);
  return parts;
}

}  // namespace

std::vector<RuntimeLibrary> runtime_libraries(const fs::path& engines) {
  std::vector<RuntimeLibrary> libraries;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(engines / "engines", ignored)) {
    const std::string name = entry.path().filename().string();
    const fs::path file = entry.path() / "libisthmus_libtorch.so";
    if (name.starts_with(kFolder) && fs::exists(file, ignored))
      libraries.push_back({name.substr(kFolder.size()), file});
  }
  std::sort(libraries.begin(), libraries.end(),
            [](const RuntimeLibrary& a, const RuntimeLibrary& b) {
              return numbers(a.torch) < numbers(b.torch);
            });
  return libraries;
}

std::string torch_versions(const std::vector<RuntimeLibrary>& libraries) {
  std::string text;
  for (std::size_t i = 0; i < libraries.size(); ++i)
    text += (i == 0 ? "" : i + 1 == libraries.size() ? " and " : ", ") + libraries[i].torch;
  return text.empty() ? "none" : text;
}

}  // namespace isthmus::torch_engine
