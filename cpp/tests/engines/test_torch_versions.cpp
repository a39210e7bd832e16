#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "engines/torch/python_environment.h"
#include "engines/torch/runtime_library.h"

namespace fs = std::filesystem;
using namespace isthmus::torch_engine;

namespace {

/// A virtual environment with isthmus in it, which is deleted at the end.
class Environment {
 public:
  explicit Environment(const std::string& name = "environment")
      : root_(fs::temp_directory_path() / ("isthmus-torch-versions-" + std::to_string(getpid()))),
        prefix_(root_ / name) {
    write(prefix_ / "bin/python");
    fs::create_directories(engines());
  }
  ~Environment() { fs::remove_all(root_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  [[nodiscard]] fs::path packages() const { return prefix_ / "lib/python3.11/site-packages"; }
  [[nodiscard]] fs::path engines() const { return packages() / "isthmus/lib"; }
  [[nodiscard]] std::string python() const { return (prefix_ / "bin/python").string(); }
  [[nodiscard]] fs::path root() const { return root_; }

  void write(const fs::path& path, const std::string& text = {}) const {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  void installed_from(const std::string& record) const {
    write(packages() / "isthmus-1.2.3.dist-info/direct_url.json", record);
  }

 private:
  fs::path root_;
  fs::path prefix_;
};

}  // namespace

TEST_CASE("runtime libraries are listed from the oldest torch to the newest") {
  const Environment here;
  CHECK(runtime_libraries(here.engines()).empty());
  for (const std::string version : {"2.9", "2.13", "2.14"})
    here.write(here.engines() / "engines" / ("torch-" + version) / "libisthmus_libtorch.so");
  fs::create_directories(here.engines() / "engines/torch-2.15");
  here.write(here.engines() / "engines/other/libisthmus_libtorch.so");
  const auto libraries = runtime_libraries(here.engines());
  REQUIRE(libraries.size() == 3);
  CHECK(libraries.front().torch == "2.9");
  CHECK(libraries.back().file == here.engines() / "engines/torch-2.14/libisthmus_libtorch.so");
  CHECK(torch_versions(libraries) == "2.9, 2.13 and 2.14");
}

TEST_CASE("a command names the interpreter of the environment, and uv where there is no pip") {
  const Environment here("with a space");
  const auto environment = python_environment(here.engines());
  REQUIRE(environment);
  CHECK(install_command(*environment, "torch==2.13.*") ==
        "uv pip install --python '" + here.python() + "' 'torch==2.13.*'");
  fs::create_directories(here.packages() / "pip");
  CHECK(install_command(*environment, "torch==2.13.*") ==
        "'" + here.python() + "' -m pip install 'torch==2.13.*'");
  CHECK(install_command(*environment, "torch==2.13.*", "--force-reinstall") ==
        "'" + here.python() + "' -m pip install --force-reinstall 'torch==2.13.*'");
  fs::remove(here.python());
  CHECK(install_command(*python_environment(here.engines()), "numpy") == "pip install numpy");
}

TEST_CASE("a folder of engines outside of Python has no environment") {
  CHECK_FALSE(python_environment("/opt/app/lib"));
  CHECK_FALSE(python_environment("/opt/isthmus/lib"));
}

TEST_CASE("the command that builds again names what isthmus was installed from") {
  const Environment here;
  fs::create_directories(here.packages() / "pip");
  const auto environment = python_environment(here.engines());
  REQUIRE(environment);
  CHECK(rebuild_command(*environment).empty());

  const std::string source = (here.root() / "source").string();
  here.installed_from(R"({"url": "file://)" + source + R"(", "dir_info": {}})");
  CHECK(rebuild_command(*environment).empty());  // it is gone
  fs::create_directories(source);
  const std::string start = here.python() + " -m pip install ";
  CHECK(rebuild_command(*environment) == start + "--force-reinstall --no-deps " + source);
  here.installed_from(R"({"url": "file://)" + source + R"(", "dir_info": {"editable": true}})");
  CHECK(rebuild_command(*environment) ==
        start + "--no-build-isolation --no-deps --editable " + source);
  here.installed_from(R"({"url": "file:///a%20b", "dir_info": {}})");
  CHECK(rebuild_command(*environment) == start + "--force-reinstall --no-deps file:///a%20b");

  for (const char* other : {R"({"url": "file:///isthmus-1.2.3-cp311-cp311-linux_x86_64.whl"})",
                            R"({"url": "https://example.org/isthmus.tar.gz"})", "{", "[]"}) {
    here.installed_from(other);
    CHECK(rebuild_command(*environment).empty());
  }
}
