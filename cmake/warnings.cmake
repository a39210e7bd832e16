# isthmus_flags carries the flags for warnings and sanitizers; all targets of isthmus link it privately.
add_library(isthmus_flags INTERFACE)
target_compile_options(isthmus_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 reports overlaps inside std::string::append (GCC bug 105651).
  target_compile_options(isthmus_flags INTERFACE -Wno-restrict)
endif()
option(ISTHMUS_WERROR "Warnings are errors" OFF)
if(ISTHMUS_WERROR)
  target_compile_options(isthmus_flags INTERFACE -Werror)
endif()
if(ISTHMUS_SANITIZE)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 reports instrumented std::regex as uninitialized (GCC bug 105562).
    target_compile_options(isthmus_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
  list(JOIN ISTHMUS_SANITIZE "," ISTHMUS_SANITIZE_FLAG)
  target_compile_options(isthmus_flags INTERFACE -fsanitize=${ISTHMUS_SANITIZE_FLAG}
                                                 -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(isthmus_flags INTERFACE -fsanitize=${ISTHMUS_SANITIZE_FLAG})
endif()
