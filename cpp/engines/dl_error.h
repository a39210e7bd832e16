#pragma once

#include <dlfcn.h>

#include <string>

namespace isthmus {

/// Returns why the last dlopen or dlsym of this thread failed.
inline std::string dl_error() {
  const char* reason = dlerror();
  return reason != nullptr ? reason : "unknown reason";
}

}  // namespace isthmus
