# Finds the headers of the CUDA runtime, which LibTorch's CUDA headers include. Nothing is compiled
# with nvcc, and no library is linked, because LibTorch brings it.
#
# Searches CudaHeaders_ROOT (variable or environment), the packages beside LibTorch, CUDA_HOME and
# CUDA_PATH (environment), and a CUDA toolkit. The headers must have LibTorch's major version of CUDA.
# crt/host_defines.h, which is in a package of its own, may come from another folder.
#
# Needs LibTorch_FOUND. Sets CudaHeaders_FOUND, CudaHeaders_VERSION and CudaHeaders_MISSING (the reason
# when not found), and defines CudaHeaders::CudaHeaders.
unset(CudaHeaders_VERSION)
set(CudaHeaders_DIRECTORIES "")
set(CudaHeaders_MISSING "")

if(NOT LibTorch_CUDA)
  set(CudaHeaders_MISSING "this LibTorch is a CPU build")
else()
  get_filename_component(_CudaHeaders_packages ${LibTorch_DIRECTORY} DIRECTORY)
  find_package(CUDAToolkit QUIET)
  set(_CudaHeaders_folders "")
  foreach(_root ${CudaHeaders_ROOT} $ENV{CudaHeaders_ROOT})
    list(APPEND _CudaHeaders_folders ${_root} ${_root}/include)
  endforeach()
  file(GLOB _CudaHeaders_beside ${_CudaHeaders_packages}/nvidia/cu[0-9]*/include
       ${_CudaHeaders_packages}/nvidia/cuda_runtime/include)
  list(APPEND _CudaHeaders_folders ${_CudaHeaders_beside})
  foreach(_root $ENV{CUDA_HOME} $ENV{CUDA_PATH})
    list(APPEND _CudaHeaders_folders ${_root}/include)
  endforeach()
  list(APPEND _CudaHeaders_folders ${CUDAToolkit_INCLUDE_DIRS}
       ${_CudaHeaders_packages}/nvidia/cuda_nvcc/include
       ${_CudaHeaders_packages}/triton/backends/nvidia/include)

  set(_CudaHeaders_seen "")
  foreach(_folder ${_CudaHeaders_folders})
    if(CudaHeaders_DIRECTORIES OR NOT EXISTS ${_folder}/cuda.h
       OR NOT EXISTS ${_folder}/cuda_runtime_api.h)
      continue()
    endif()
    file(STRINGS ${_folder}/cuda.h _line REGEX "^#define CUDA_VERSION [0-9]+")
    string(REGEX MATCH "[0-9]+$" _number "${_line}")
    math(EXPR _major "${_number} / 1000")
    math(EXPR _minor "${_number} % 1000 / 10")
    # Since CUDA 12.4, LibTorch's classes have the same layout within a major version.
    if(_number LESS 12040 OR (LibTorch_CUDA_VERSION AND NOT LibTorch_CUDA_VERSION MATCHES "^${_major}\\."))
      list(APPEND _CudaHeaders_seen "${_major}.${_minor}")
      continue()
    endif()
    set(CudaHeaders_VERSION ${_major}.${_minor})
    set(CudaHeaders_DIRECTORIES ${_folder})
  endforeach()
  if(CudaHeaders_DIRECTORIES AND NOT EXISTS ${CudaHeaders_DIRECTORIES}/crt/host_defines.h)
    foreach(_folder ${_CudaHeaders_folders})
      if(EXISTS ${_folder}/crt/host_defines.h)
        list(APPEND CudaHeaders_DIRECTORIES ${_folder})
        break()
      endif()
    endforeach()
  endif()

  if(CudaHeaders_DIRECTORIES)
    # The folders are used together only when their headers compile together.
    file(WRITE ${CMAKE_BINARY_DIR}/CMakeFiles/cuda_headers.cpp
         "#include <cuda.h>\n#include <cuda_runtime_api.h>\nint main() { return CUDART_VERSION < 12040; }\n")
    unset(_CudaHeaders_compile CACHE)
    try_compile(
      _CudaHeaders_compile ${CMAKE_BINARY_DIR}/CMakeFiles/cuda_headers
      ${CMAKE_BINARY_DIR}/CMakeFiles/cuda_headers.cpp
      CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${CudaHeaders_DIRECTORIES}")
    if(NOT _CudaHeaders_compile)
      set(CudaHeaders_MISSING
          "the headers of CUDA ${CudaHeaders_VERSION} are incomplete (crt/host_defines.h comes with nvidia-cuda-crt or a CUDA toolkit)")
      set(CudaHeaders_DIRECTORIES "")
    endif()
  elseif(_CudaHeaders_seen)
    list(JOIN _CudaHeaders_seen ", " _CudaHeaders_seen)
    set(CudaHeaders_MISSING
        "the headers of CUDA ${LibTorch_CUDA_VERSION} were not found, only of ${_CudaHeaders_seen}")
  else()
    set(CudaHeaders_MISSING "the headers of CUDA's runtime were not found")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  CudaHeaders
  REQUIRED_VARS CudaHeaders_DIRECTORIES
  VERSION_VAR CudaHeaders_VERSION
  REASON_FAILURE_MESSAGE "${CudaHeaders_MISSING}")

if(CudaHeaders_FOUND AND NOT TARGET CudaHeaders::CudaHeaders)
  add_library(CudaHeaders::CudaHeaders INTERFACE IMPORTED)
  target_include_directories(CudaHeaders::CudaHeaders SYSTEM INTERFACE ${CudaHeaders_DIRECTORIES})
endif()
