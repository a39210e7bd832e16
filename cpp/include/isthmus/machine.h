#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// The machine this process runs on, as the kernel and the NVIDIA driver describe it. What cannot
/// be told is empty or 0.
struct Machine {
  std::string system;               ///< "Linux 6.1.0 x86_64"
  std::string cpu;                  ///< the processor's name
  int cores = 0;                    ///< processors this process may use: affinity and cgroup quota
  std::vector<std::string> isa;     ///< "avx", "avx2", "fma", "avx512f", ... those present
  std::vector<std::string> gpus;    ///< as the NVIDIA driver names them; empty without a driver
  std::string gpu_driver;           ///< version of the NVIDIA driver
  std::vector<std::string> openmp;  ///< OpenMP runtimes loaded in this process (paths)
  std::string governor;             ///< CPU frequency governor, "performance", "powersave", ...
  std::int64_t memory_bytes = 0;    ///< physical memory
};
ISTHMUS_API Machine this_machine();

/// `Machine::cores` alone.
ISTHMUS_API int usable_cores();

/// Names machines on which the same choice is the fastest: processor, cores, instruction sets,
/// GPUs.
ISTHMUS_API std::string machine_key(const Machine& machine);

/// What about this machine and this process makes timings unsteady or slow, a sentence each: a
/// debug build, a governor that saves power, several OpenMP runtimes.
ISTHMUS_API std::vector<std::string> timing_warnings(const Machine& machine);

/// Largest resident memory of this process so far, bytes; 0 when the system does not tell.
ISTHMUS_API std::int64_t peak_memory_bytes();

/// Resident memory of this process now, bytes; 0 when the system does not tell.
ISTHMUS_API std::int64_t resident_memory_bytes();

/// Version of libisthmus, "0.1.0".
ISTHMUS_API std::string version();

/// How libisthmus was built: compiler, C++ standard library ABI, build type.
ISTHMUS_API std::string build_info();

}  // namespace isthmus
