#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// The machine of this process, as the kernel and the NVIDIA driver describe it. Unknown facts are
/// empty or 0.
struct Machine {
  std::string system;               ///< "Linux 6.1.0 x86_64"
  std::string cpu;                  ///< name of the processor
  int cores = 0;                    ///< processors that affinity and cgroup quota allow
  std::vector<std::string> isa;     ///< "avx", "avx2", "fma", "avx512f", ...
  std::vector<std::string> gpus;    ///< names from the NVIDIA driver; empty without a driver
  std::string gpu_driver;           ///< version of the NVIDIA driver
  std::vector<std::string> openmp;  ///< paths of the OpenMP runtimes in this process
  std::string governor;             ///< CPU frequency governor, "performance", "powersave", ...
  std::int64_t memory_bytes = 0;    ///< physical memory
};

/// Describes this machine.
ISTHMUS_API Machine this_machine();

/// Returns `Machine::cores`.
ISTHMUS_API int usable_cores();

/// Returns a key that machines share when the same artifact is expected to be the fastest on them:
/// processor, cores, instruction sets and GPUs.
ISTHMUS_API std::string machine_key(const Machine& machine);

/// Returns sentences about what makes timings unsteady or slow here: a debug build, a governor that
/// saves power, several OpenMP runtimes.
ISTHMUS_API std::vector<std::string> timing_warnings(const Machine& machine);

/// Returns the largest resident memory of this process so far in bytes; 0 when it is unknown.
ISTHMUS_API std::int64_t peak_memory_bytes();

/// Returns the resident memory of this process in bytes; 0 when it is unknown.
ISTHMUS_API std::int64_t resident_memory_bytes();

/// Returns the version of libisthmus, such as "0.1.0".
ISTHMUS_API std::string version();

/// Returns the compiler, the ABI of the C++ standard library, and the build type of libisthmus.
ISTHMUS_API std::string build_info();

}  // namespace isthmus
