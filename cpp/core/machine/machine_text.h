#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <istream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

/// Parsers for the text files of the kernel and the NVIDIA driver.
namespace isthmus::machine_text {

inline std::string trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

/// Returns the value of the first "key : value" line, or an empty string.
inline std::string field(std::istream& text, std::string_view key) {
  std::string line;
  while (std::getline(text, line)) {
    const auto colon = line.find(':');
    if (colon != std::string::npos && trim(line.substr(0, colon)) == key)
      return trim(line.substr(colon + 1));
  }
  return "";
}

/// Returns the instruction sets that engines and AOTInductor packages may need, from a CPU's flags.
inline std::vector<std::string> isa_of(const std::string& flags) {
  static constexpr std::array kKnown{
      "sse4_2",   "avx",      "avx2",     "fma",      "f16c",        "avx512f",     "avx512bw",
      "avx512cd", "avx512dq", "avx512vl", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16",
      "amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "asimd",       "asimdhp",     "asimddp",
      "sve",      "sve2",     "i8mm",     "bf16"};
  std::istringstream words(flags);
  std::set<std::string> present;
  for (std::string word; words >> word;) present.insert(word);
  std::vector<std::string> isa;
  for (const char* name : kKnown)
    if (present.count(name) > 0) isa.emplace_back(name);
  return isa;
}

/// Returns the whole processors that cgroup v2's cpu.max ("200000 100000", "max 100000") allows; 0
/// without a limit.
inline int cores_of_quota(const std::string& cpu_max) {
  std::istringstream text(cpu_max);
  double quota = 0;
  double period = 0;
  if (!(text >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>(quota / period));
}

/// Returns the version, "550.54.15", from the first line of /proc/driver/nvidia/version.
inline std::string driver_version(const std::string& text) {
  std::istringstream words(text.substr(0, text.find('\n')));
  for (std::string word; words >> word;)
    if (word.find('.') != std::string::npos &&
        word.find_first_not_of("0123456789.") == std::string::npos)
      return word;
  return "";
}

/// Returns the distinct, sorted paths of OpenMP runtimes in /proc/PID/maps.
inline std::vector<std::string> openmp_of(std::istream& maps) {
  std::set<std::string> paths;
  for (std::string line; std::getline(maps, line);) {
    const auto slash = line.find('/');
    if (slash == std::string::npos) continue;
    const std::string path = line.substr(slash);
    const std::string file = path.substr(path.rfind('/') + 1);
    for (const char* runtime : {"libgomp", "libiomp5", "libomp"})
      // "libomp.so", "libgomp-1a2b3c.so.1.0.0", but not "libompi.so".
      if (file.rfind(runtime, 0) == 0 && file.find(".so") != std::string::npos &&
          std::string_view(".-").find(file[std::string_view(runtime).size()]) !=
              std::string_view::npos)
        paths.insert(path);
  }
  return {paths.begin(), paths.end()};
}

/// Returns the bytes of a "VmHWM:   1234 kB" line of /proc/PID/status, or "MemTotal:" of
/// /proc/meminfo; 0 without such a line.
inline std::int64_t kilobytes(std::istream& text, std::string_view key) {
  const std::string value = field(text, key);
  std::int64_t amount = 0;
  std::istringstream(value) >> amount;
  return amount * 1024;
}

}  // namespace isthmus::machine_text
