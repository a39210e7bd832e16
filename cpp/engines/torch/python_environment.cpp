#include "engines/torch/python_environment.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace isthmus::torch_engine {
namespace {

namespace fs = std::filesystem;

/// Returns a word of a shell command, in quotes when it has characters of the shell.
std::string quoted(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// Returns the start of a command that installs into the environment.
std::string installer(const PythonEnvironment& environment) {
  if (environment.python.empty()) return "pip install";
  std::error_code ignored;
  const std::string python = quoted(environment.python.string());
  return fs::exists(environment.packages / "pip", ignored) ? python + " -m pip install"
                                                           : "uv pip install --python " + python;
}

/// Returns the record of where isthmus was installed from, which pip and uv write (PEP 610).
nlohmann::json installed_from(const fs::path& packages) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(packages, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("isthmus-") || !name.ends_with(".dist-info")) continue;
    std::ifstream file(entry.path() / "direct_url.json");
    return nlohmann::json::parse(file, nullptr, false);
  }
  return {};
}

}  // namespace

std::optional<PythonEnvironment> python_environment(const fs::path& engines) {
  const fs::path package = engines.parent_path();
  const fs::path packages = package.parent_path();
  if (package.filename() != "isthmus" ||
      (packages.filename() != "site-packages" && packages.filename() != "dist-packages"))
    return std::nullopt;
  // PREFIX/lib/python3.11/site-packages
  const fs::path python = packages.parent_path().parent_path().parent_path() / "bin" / "python";
  std::error_code ignored;
  return PythonEnvironment{packages, fs::exists(python, ignored) ? python : fs::path()};
}

std::string install_command(const PythonEnvironment& environment, const std::string& requirement,
                            const std::string& option) {
  return installer(environment) + (option.empty() ? "" : " " + option) + " " + quoted(requirement);
}

std::string rebuild_command(const PythonEnvironment& environment) {
  constexpr std::string_view kFile = "file://";
  const nlohmann::json record = installed_from(environment.packages);
  if (!record.is_object()) return {};
  const std::string url = record.value("url", std::string());
  if (!url.starts_with(kFile) || url.ends_with(".whl")) return {};
  std::error_code ignored;
  const std::string path = url.substr(kFile.size());
  const bool encoded = path.find('%') != std::string::npos;
  if (!encoded && !fs::exists(path, ignored)) return {};
  const bool editable = record.contains("dir_info") && record["dir_info"].is_object() &&
                        record["dir_info"].value("editable", false);
  const std::string options =
      editable ? " --no-build-isolation --no-deps --editable " : " --force-reinstall --no-deps ";
  return installer(environment) + options + quoted(encoded ? url : path);
}

}  // namespace isthmus::torch_engine
