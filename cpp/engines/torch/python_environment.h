#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace isthmus::torch_engine {

/// The Python environment that isthmus is installed in, for commands that a message names.
struct PythonEnvironment {
  std::filesystem::path packages;  ///< its folder site-packages
  std::filesystem::path python;    ///< its interpreter; empty when it is not beside the packages
};

/// Returns the environment that holds this folder of engines (.../site-packages/isthmus/lib);
/// nullopt for a deployment, an installation without Python, and a build folder.
std::optional<PythonEnvironment> python_environment(const std::filesystem::path& engines);

/// Returns the shell command that installs a requirement, such as "torch==2.13.*", there. It is
/// complete: it names the interpreter, and uv where the environment has no pip.
std::string install_command(const PythonEnvironment& environment, const std::string& requirement,
                            const std::string& option = {});

/// Returns the shell command that builds isthmus again from where it was installed from; empty when
/// that is unknown, gone, or a wheel.
std::string rebuild_command(const PythonEnvironment& environment);

}  // namespace isthmus::torch_engine
