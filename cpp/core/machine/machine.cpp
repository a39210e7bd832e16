#include "isthmus/machine.h"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

#include "core/machine/machine_text.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;
using machine_text::field;

std::string content(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

std::string field_of(const fs::path& path, std::string_view key) {
  std::ifstream file(path);
  return field(file, key);
}

std::int64_t bytes_of(const fs::path& path, std::string_view key) {
  std::ifstream file(path);
  return machine_text::kilobytes(file, key);
}

std::string system_name() {
  utsname name{};
  if (uname(&name) != 0) return "";
  return std::string(name.sysname) + " " + name.release + " " + name.machine;
}

std::string cpu_name() {
  std::string name = field_of("/proc/cpuinfo", "model name");
  if (name.empty()) name = machine_text::trim(content("/sys/firmware/devicetree/base/model"));
  return name;
}

std::vector<std::string> gpus() {
  std::vector<std::string> names;
  std::vector<fs::path> folders;
  std::error_code ignored;  // no driver: no such folder
  for (const auto& entry : fs::directory_iterator("/proc/driver/nvidia/gpus", ignored))
    folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());  // by PCI address, like the driver
  for (const fs::path& folder : folders)
    if (std::string model = field_of(folder / "information", "Model"); !model.empty())
      names.push_back(std::move(model));
  return names;
}

}  // namespace

int usable_cores() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
  // One cpu_set_t holds 1024 processors; a machine with more refuses a set that is too small.
  for (std::size_t sets = 1; sets <= 64; sets *= 2) {
    std::vector<cpu_set_t> affinity(sets);
    const std::size_t bytes = sets * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, affinity.data()) != 0) continue;
    count = CPU_COUNT_S(bytes, affinity.data());
    break;
  }
  // In a container these files describe the container. Version 1 of cgroups has two files.
  const int quota = machine_text::cores_of_quota(content("/sys/fs/cgroup/cpu.max"));
  const int quota_v1 =
      machine_text::cores_of_quota(content("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + " " +
                                   content("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  for (const int limit : {quota, quota_v1})
    if (limit > 0) count = std::min(count, limit);
  return count;
}

Machine this_machine() {
  std::ifstream maps("/proc/self/maps");
  std::string flags = field_of("/proc/cpuinfo", "flags");
  if (flags.empty()) flags = field_of("/proc/cpuinfo", "Features");  // ARM
  return {.system = system_name(),
          .cpu = cpu_name(),
          .cores = usable_cores(),
          .isa = machine_text::isa_of(flags),
          .gpus = gpus(),
          .gpu_driver = machine_text::driver_version(content("/proc/driver/nvidia/version")),
          .openmp = machine_text::openmp_of(maps),
          .governor =
              machine_text::trim(content("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
          .memory_bytes = bytes_of("/proc/meminfo", "MemTotal")};
}

std::string machine_key(const Machine& machine) {
  std::string key = machine.cpu + ", " + std::to_string(machine.cores) + " cores,";
  for (const std::string& set : machine.isa) key += " " + set;
  for (const std::string& gpu : machine.gpus) key += ", " + gpu;
  return key;
}

std::vector<std::string> timing_warnings(const Machine& machine) {
  std::vector<std::string> warnings;
#ifndef NDEBUG
  warnings.emplace_back(
      "isthmus was built without optimisation, so timings are meaningless; build with "
      "CMAKE_BUILD_TYPE=Release");
#endif
  if (!machine.governor.empty() && machine.governor != "performance")
    warnings.push_back("the CPU frequency governor is \"" + machine.governor +
                       "\": timings may vary; \"performance\" makes them steady");
  if (machine.openmp.size() > 1) {
    std::string text = std::to_string(machine.openmp.size()) +
                       " OpenMP runtimes are loaded, whose threads compete for the same cores:";
    for (const std::string& path : machine.openmp) text += " " + path;
    warnings.push_back(text);
  }
  return warnings;
}

std::int64_t peak_memory_bytes() {
  return bytes_of("/proc/self/status", "VmHWM");
}

std::int64_t resident_memory_bytes() {
  return bytes_of("/proc/self/status", "VmRSS");
}

std::string version() {
  return ISTHMUS_VERSION;
}

std::string build_info() {
  std::string text;
#if defined(__clang__)
  text = "clang " __clang_version__;
#elif defined(__GNUC__)
  text = "g++ " __VERSION__;
#endif
  text += ", C++" + std::to_string(__cplusplus / 100 % 100);
#if defined(_GLIBCXX_USE_CXX11_ABI)
  text += ", libstdc++ with _GLIBCXX_USE_CXX11_ABI=" + std::to_string(_GLIBCXX_USE_CXX11_ABI);
#elif defined(_LIBCPP_VERSION)
  text += ", libc++";
#endif
  const std::string build_type = ISTHMUS_BUILD_TYPE;
  return text + ", " + (build_type.empty() ? "no build type" : build_type);
}

}  // namespace isthmus
