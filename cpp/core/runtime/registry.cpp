#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "core/runtime/engine_folders.h"
#include "core/tensor/memory.h"
#include "core/text.h"
#include "isthmus/engine.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "libisthmus_engine_";
constexpr std::string_view kSuffix = ".so";

fs::path library_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&open_engine), &info) == 0 || info.dli_fname == nullptr)
    return {};
  std::error_code ignored;
  const fs::path here = fs::canonical(info.dli_fname, ignored);
  return here.empty() ? fs::path() : here.parent_path();
}

std::string known_engines(std::span<const fs::path> engine_path) {
  const std::vector<std::string> names = engine_names(engine_path);
  return names.empty() ? "none" : detail::joined(names);
}

Engine& open_library(const fs::path& file, std::string_view name) {
  const std::string label = "engine \"" + std::string(name) + "\" (" + file.string() + ")";
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw EngineUnavailable(label + " cannot be opened: " + (reason ? reason : "unknown reason") +
                            "; reinstall isthmus, or the engine, for this machine");
  }
  const auto abi = reinterpret_cast<int (*)()>(dlsym(handle, "isthmus_engine_abi"));
  const auto entry = reinterpret_cast<Engine* (*)()>(dlsym(handle, "isthmus_engine"));
  if (abi == nullptr || entry == nullptr)
    throw EngineUnavailable(label + " is no engine library: expected it to export " +
                            "isthmus_engine_abi and isthmus_engine (ISTHMUS_EXPORT_ENGINE)");
  if (abi() != kEngineAbi)
    throw EngineUnavailable(label + " was built for engine interface " + std::to_string(abi()) +
                            ", this libisthmus has " + std::to_string(kEngineAbi) +
                            "; build the engine again against this isthmus");
  Engine* engine = entry();
  if (engine == nullptr)
    throw EngineUnavailable(label + " gave no engine: its isthmus_engine() returned null");
  return *engine;
}

/// The engines that are open, by file. Leaked on purpose, because at exit a runtime may need static
/// objects that are already destroyed.
struct Opened {
  std::mutex mutex;
  std::map<fs::path, Engine*> engines;
};
Opened& opened() {
  static Opened& instance = *new Opened;  // NOLINT(cppcoreguidelines-owning-memory)
  return instance;
}

}  // namespace

std::vector<fs::path> detail::engine_folders(std::span<const fs::path> first) {
  for (const fs::path& folder : first)
    if (std::error_code error; !fs::is_directory(folder, error))
      throw InvalidInput("engine_path: there is no folder " + folder.string() +
                         "; name the folder that holds libisthmus_engine_*.so");
  std::vector<fs::path> folders(first.begin(), first.end());
  if (const char* variable = std::getenv("ISTHMUS_ENGINE_PATH")) {
    std::string_view rest(variable);
    while (!rest.empty()) {
      const auto colon = rest.find(':');
      if (colon != 0) folders.emplace_back(rest.substr(0, colon));
      rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
    }
  }
  folders.push_back(library_folder());
  return folders;
}

Tensor Executable::copy(const Tensor& tensor) {
  return tensor.clone();
}

void Executable::write(const Tensor& values, const Tensor& buffer) {
  detail::copy_elements(values, buffer);
}

Tensor Executable::transfer(const Tensor& tensor, Device device) {
  if (device.is_cpu() && tensor.device().is_cpu()) return tensor;
  throw DeviceUnavailable("this engine cannot move " + tensor.describe() + " to " +
                          to_string(device) + ": it only knows the CPU");
}

std::set<std::string> ArtifactSource::data_names() const {
  std::set<std::string> names;
  for (std::size_t i = manifest.methods.size(); i < files.size(); ++i)
    names.insert(fs::path(files[i].path).filename().string());
  return names;
}

std::vector<std::string> engine_names(std::span<const fs::path> engine_path) {
  std::vector<std::string> names;
  for (const fs::path& folder : detail::engine_folders(engine_path)) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      const std::string file = entry.path().filename().string();
      if (file.starts_with(kPrefix) && file.ends_with(kSuffix) &&
          file.size() > kPrefix.size() + kSuffix.size())
        names.push_back(file.substr(kPrefix.size(), file.size() - kPrefix.size() - kSuffix.size()));
    }
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

Engine& open_engine(std::string_view name, std::span<const fs::path> engine_path) {
  const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
  const std::string file = std::string(kPrefix) + std::string(name) + std::string(kSuffix);
  std::string sought;
  if (plain) {
    for (const fs::path& folder : detail::engine_folders(engine_path)) {
      sought += (sought.empty() ? "" : ", ") + folder.string();
      std::error_code ignored;
      const fs::path path = fs::canonical(folder / file, ignored);
      if (path.empty()) continue;
      Opened& registry = opened();
      const std::lock_guard lock(registry.mutex);
      const auto known = registry.engines.find(path);
      if (known != registry.engines.end()) return *known->second;
      Engine& engine = open_library(path, name);
      registry.engines.emplace(path, &engine);
      return engine;
    }
  }
  throw EngineUnavailable("engine \"" + std::string(name) +
                          "\" is not installed; there is: " + known_engines(engine_path) +
                          (plain ? "; sought " + file + " in " : "") + sought +
                          "; name another engine, or put its folder into "
                          "ISTHMUS_ENGINE_PATH");
}

}  // namespace isthmus
