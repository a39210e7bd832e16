# isthmus_flags: warnings and sanitizers as one target, linked privately by all of ours.
add_library(isthmus_flags INTERFACE)
target_compile_options(isthmus_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees overlap in std::string's own appends (GCC bug 105651).
  target_compile_options(isthmus_flags INTERFACE -Wno-restrict)
endif()
option(ISTHMUS_WERROR "Warnings are errors" OFF)
if(ISTHMUS_WERROR)
  target_compile_options(isthmus_flags INTERFACE -Werror)
endif()
if(ISTHMUS_SANITIZE)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented std::regex looks uninitialised to GCC 12 (GCC bug 105562).
    target_compile_options(isthmus_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
  list(JOIN ISTHMUS_SANITIZE "," ISTHMUS_SANITIZE_FLAG)
  target_compile_options(isthmus_flags INTERFACE -fsanitize=${ISTHMUS_SANITIZE_FLAG}
                                                 -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(isthmus_flags INTERFACE -fsanitize=${ISTHMUS_SANITIZE_FLAG})
endif()
