#include <doctest/doctest.h>

#include <algorithm>
#include <regex>
#include <sstream>
#include <vector>

#include "core/machine/machine_text.h"
#include "isthmus/machine.h"

using namespace isthmus;
namespace text = isthmus::machine_text;

namespace {

std::string field(const std::string& content, std::string_view key) {
  std::istringstream stream(content);
  return text::field(stream, key);
}

std::vector<std::string> openmp(const std::string& maps) {
  std::istringstream stream(maps);
  return text::openmp_of(stream);
}

}  // namespace

TEST_CASE("this machine has a name, cores and memory") {
  const Machine machine = this_machine();
  CHECK(std::regex_match(machine.system, std::regex("Linux [^ ]+ [^ ]+")));
  CHECK(machine.cores >= 1);
  CHECK(machine.memory_bytes > (std::int64_t{1} << 26));
  CHECK(std::is_sorted(machine.openmp.begin(), machine.openmp.end()));
#if defined(__x86_64__)
  CHECK_FALSE(machine.isa.empty());
#endif
}

TEST_CASE("the version is three numbers, the build names its compiler") {
  CHECK(std::regex_match(version(), std::regex(R"(\d+\.\d+\.\d+)")));
  CHECK(std::regex_search(build_info(), std::regex(R"((g\+\+|clang) \d+.*C\+\+2\d, lib.*, \w+)")));
}

TEST_CASE("peak memory grows when memory is written") {
  const std::int64_t before = peak_memory_bytes();
  REQUIRE(before > 0);
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  const std::vector<char> block(kBytes, 1);
  CHECK(block[kBytes / 2] == 1);
  CHECK(peak_memory_bytes() - before > static_cast<std::int64_t>(kBytes / 2));
}

TEST_CASE("fields of /proc files") {
  CHECK(field("processor\t: 0\nmodel name\t: Some CPU @ 2.0\n", "model name") == "Some CPU @ 2.0");
  CHECK(field("Model: \t\t NVIDIA H200\nIRQ: 7\n", "Model") == "NVIDIA H200");
  CHECK(field("model name x\n", "model name").empty());
  std::istringstream status("VmPeak:\t  10 kB\nVmHWM:\t   2048 kB\n");
  CHECK(text::kilobytes(status, "VmHWM") == 2048 * 1024);
  std::istringstream nothing("");
  CHECK(text::kilobytes(nothing, "VmHWM") == 0);
}

TEST_CASE("instruction sets are whole words of the flags") {
  CHECK(text::isa_of("fpu avx2 avx fma avx512_vnni amx_tile sse4_2x") ==
        std::vector<std::string>{"avx", "avx2", "fma", "avx512_vnni", "amx_tile"});
  CHECK(text::isa_of("").empty());
}

TEST_CASE("a cgroup's quota in whole processors") {
  CHECK(text::cores_of_quota("max 100000\n") == 0);
  CHECK(text::cores_of_quota("200000 100000\n") == 2);
  CHECK(text::cores_of_quota("250000 100000") == 2);
  CHECK(text::cores_of_quota("50000 100000") == 1);
  CHECK(text::cores_of_quota("-1\n 100000\n") == 0);
  CHECK(text::cores_of_quota("") == 0);
}

TEST_CASE("the driver's version") {
  CHECK(
      text::driver_version("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n"
                           "GCC version:  gcc version 12.3.0\n") == "550.54.15");
  CHECK(text::driver_version("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  "
                             "Release Build\n") == "580.95.05");
  CHECK(text::driver_version("").empty());
}

TEST_CASE("distinct OpenMP runtimes among the mapped files") {
  const std::string line = "7f0000000000-7f0000001000 r-xp 00000000 08:01 1234   ";
  const auto runtimes = openmp(line + "/usr/lib/libgomp.so.1\n" + line + "/usr/lib/libgomp.so.1\n" +
                               line + "/venv/torch/lib/libgomp-24e2ab19.so.1.0.0\n" + line +
                               "/opt/intel oneapi/libiomp5.so\n" + line + "/usr/lib/libompi.so\n" +
                               line + "/usr/lib/libomp.so.5\n" + "7f00-7f01 rw-p 0 0 0 [heap]\n");
  CHECK(runtimes == std::vector<std::string>{"/opt/intel oneapi/libiomp5.so",
                                             "/usr/lib/libgomp.so.1", "/usr/lib/libomp.so.5",
                                             "/venv/torch/lib/libgomp-24e2ab19.so.1.0.0"});
}

TEST_CASE("warnings name the causes of unsteady timings") {
  Machine machine;
  const std::size_t before = timing_warnings(machine).size();  // 1 in a debug build
  machine.governor = "performance";
  machine.openmp = {"/a/libgomp.so.1"};
  CHECK(timing_warnings(machine).size() == before);
  machine.governor = "powersave";
  machine.openmp.emplace_back("/b/libiomp5.so");
  const auto warnings = timing_warnings(machine);
  REQUIRE(warnings.size() == before + 2);
  CHECK(warnings[before].find("powersave") != std::string::npos);
  CHECK(warnings[before + 1].find("/b/libiomp5.so") != std::string::npos);
}
