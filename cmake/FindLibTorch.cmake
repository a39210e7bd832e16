# Finds LibTorch in the `torch` Python package or in an unpacked LibTorch archive, for CPU or CUDA.
# Needs no CUDA toolkit, NVTX or MKL.
#
# Searches LibTorch_ROOT (variable or environment), ISTHMUS_LIBTORCH (environment), and the torch
# package of the Python interpreter (Python_EXECUTABLE, else the one on the path).
#
# Sets LibTorch_FOUND, LibTorch_VERSION, LibTorch_VERSION_FULL (with the local part, as in +cpu),
# LibTorch_DIRECTORY, LibTorch_CUDA (ON or OFF) and LibTorch_CUDA_VERSION (when its files tell it), and
# defines LibTorch::LibTorch with include directories, libraries, ABI flag and C++ standard.

set(_LibTorch_hints ${LibTorch_ROOT} $ENV{LibTorch_ROOT} $ENV{ISTHMUS_LIBTORCH})
if(NOT _LibTorch_hints)
  if(NOT Python_EXECUTABLE)
    find_package(Python COMPONENTS Interpreter QUIET)
  endif()
  if(Python_EXECUTABLE)
    # find_spec does not import torch, so it is fast and cannot fail in torch's start-up.
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
              "import importlib.util as u, os; s = u.find_spec('torch'); print(os.path.dirname(s.origin) if s else '')"
      OUTPUT_VARIABLE _LibTorch_package OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    list(APPEND _LibTorch_hints ${_LibTorch_package})
  endif()
endif()

# Nothing is cached: a build folder that is configured for another torch must not keep the old one.
set(_LibTorch_libraries c10 torch_cpu torch c10_cuda torch_cuda)
unset(LibTorch_DIRECTORY CACHE)
unset(LibTorch_DIRECTORY)
foreach(_lib ${_LibTorch_libraries})
  unset(LibTorch_${_lib}_LIBRARY CACHE)
  unset(LibTorch_${_lib}_LIBRARY)
endforeach()
find_path(LibTorch_DIRECTORY NAMES include/torch/csrc/api/include/torch/torch.h
          HINTS ${_LibTorch_hints} NO_DEFAULT_PATH NO_CACHE)

unset(LibTorch_VERSION)
if(LibTorch_DIRECTORY)
  if(EXISTS ${LibTorch_DIRECTORY}/version.py)
    file(STRINGS ${LibTorch_DIRECTORY}/version.py _LibTorch_line REGEX "^__version__ = ")
    string(REGEX REPLACE ".*'(.*)'.*" "\\1" LibTorch_VERSION_FULL "${_LibTorch_line}")
  elseif(EXISTS ${LibTorch_DIRECTORY}/build-version)
    file(STRINGS ${LibTorch_DIRECTORY}/build-version LibTorch_VERSION_FULL LIMIT_COUNT 1)
  endif()
  string(REGEX MATCH "^[0-9]+\\.[0-9]+\\.[0-9]+" LibTorch_VERSION "${LibTorch_VERSION_FULL}")
  unset(LibTorch_CUDA_VERSION)
  if(EXISTS ${LibTorch_DIRECTORY}/version.py)
    file(STRINGS ${LibTorch_DIRECTORY}/version.py _LibTorch_line REGEX "^cuda: .*= '[0-9.]+'")
    string(REGEX MATCH "[0-9]+\\.[0-9]+" LibTorch_CUDA_VERSION "${_LibTorch_line}")
  elseif(LibTorch_VERSION_FULL MATCHES "\\+cu([0-9]+)([0-9])$")
    set(LibTorch_CUDA_VERSION ${CMAKE_MATCH_1}.${CMAKE_MATCH_2})
  endif()
endif()

foreach(_lib ${_LibTorch_libraries})
  find_library(LibTorch_${_lib}_LIBRARY ${_lib} HINTS ${LibTorch_DIRECTORY}/lib NO_DEFAULT_PATH
                                                                             NO_CACHE)
endforeach()
if(LibTorch_torch_cuda_LIBRARY)
  set(LibTorch_CUDA ON)
else()
  set(LibTorch_CUDA OFF)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LibTorch_DIRECTORY LibTorch_c10_LIBRARY LibTorch_torch_cpu_LIBRARY
                LibTorch_torch_LIBRARY
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "install it with `pip install torch` for the interpreter ${Python_EXECUTABLE}, or unpack LibTorch and set LibTorch_ROOT to its folder")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(
    LibTorch::LibTorch SYSTEM
    INTERFACE ${LibTorch_DIRECTORY}/include ${LibTorch_DIRECTORY}/include/torch/csrc/api/include)
  target_link_libraries(LibTorch::LibTorch INTERFACE ${LibTorch_torch_cpu_LIBRARY}
                                                     ${LibTorch_c10_LIBRARY})
  if(LibTorch_CUDA)
    # Nothing refers to torch_cuda by symbol, so a linker that drops unused libraries would drop the
    # CUDA back end. Linking needs no driver or toolkit: libraries that torch_cuda depends on are in
    # other packages and are found at run time.
    target_link_options(
      LibTorch::LibTorch INTERFACE "LINKER:--no-as-needed,${LibTorch_torch_cuda_LIBRARY},--as-needed"
      "LINKER:--allow-shlib-undefined")
  endif()
  # The std::string ABI that LibTorch was built with; the compiler's default when it is not told.
  file(GLOB _LibTorch_config ${LibTorch_DIRECTORY}/share/cmake/Torch/TorchConfig.cmake)
  if(_LibTorch_config)
    file(STRINGS ${_LibTorch_config} _LibTorch_abi REGEX "_GLIBCXX_USE_CXX11_ABI=[01]")
    string(REGEX MATCH "_GLIBCXX_USE_CXX11_ABI=[01]" _LibTorch_abi "${_LibTorch_abi}")
    if(_LibTorch_abi)
      target_compile_definitions(LibTorch::LibTorch INTERFACE ${_LibTorch_abi})
    endif()
    file(STRINGS ${_LibTorch_config} _LibTorch_std REGEX "CXX_STANDARD [0-9]+")
    string(REGEX MATCH "[0-9]+" _LibTorch_std "${_LibTorch_std}")
  endif()
  if(NOT _LibTorch_std OR _LibTorch_std LESS 20)
    set(_LibTorch_std 20)
  endif()
  target_compile_features(LibTorch::LibTorch INTERFACE cxx_std_${_LibTorch_std})
endif()
