#pragma once

#include <string>
#include <vector>

#include "isthmus/export.h"

namespace isthmus {

/// The machine this process runs on.
struct Machine {
  std::string system;             ///< "Linux 6.1 x86_64"
  std::string cpu;                ///< the processor's name
  int cores = 0;                  ///< processors this process may use
  std::vector<std::string> isa;   ///< "avx", "avx2", "fma", "avx512f", ... those present
  std::vector<std::string> gpus;  ///< as the NVIDIA driver names them; empty without a driver
  std::string gpu_driver;
  std::vector<std::string> openmp;  ///< OpenMP runtimes loaded in this process (paths)
};
ISTHMUS_API Machine this_machine();

/// Version of libisthmus, "0.1.0".
ISTHMUS_API std::string version();

/// How libisthmus was built: compiler, C++ standard library ABI, build type.
ISTHMUS_API std::string build_info();

}  // namespace isthmus
