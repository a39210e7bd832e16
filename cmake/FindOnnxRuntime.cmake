# Finds the headers of ONNX Runtime's C and C++ API. The build does not need the shared library: the
# engine opens one at run time, of at least the headers' API version.
#
# Searches OnnxRuntime_ROOT (variable or environment), the system's include folders (Debian:
# libonnxruntime-dev), and build/headers/onnxruntime of this checkout, where scripts/setup unpacks them.
#
# Sets OnnxRuntime_FOUND, OnnxRuntime_API_VERSION and OnnxRuntime_PACKAGE (the folder of the Python
# package's library; empty without one), and defines OnnxRuntime::Headers.

find_path(
  OnnxRuntime_INCLUDE_DIR
  NAMES onnxruntime_cxx_api.h
  HINTS ${OnnxRuntime_ROOT} $ENV{OnnxRuntime_ROOT} ${PROJECT_SOURCE_DIR}/build/headers/onnxruntime
  PATH_SUFFIXES include include/onnxruntime usr/include/onnxruntime onnxruntime
                onnxruntime/core/session)

unset(OnnxRuntime_API_VERSION)
if(OnnxRuntime_INCLUDE_DIR)
  file(STRINGS ${OnnxRuntime_INCLUDE_DIR}/onnxruntime_c_api.h _OnnxRuntime_line
       REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+" OnnxRuntime_API_VERSION "${_OnnxRuntime_line}")
endif()

if(NOT Python_EXECUTABLE)
  find_package(Python COMPONENTS Interpreter QUIET)
endif()
if(Python_EXECUTABLE)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import importlib.util as u, os; s = u.find_spec('onnxruntime'); print(os.path.join(os.path.dirname(s.origin), 'capi') if s and s.origin else '')"
    OUTPUT_VARIABLE OnnxRuntime_PACKAGE OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OnnxRuntime
  REQUIRED_VARS OnnxRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE
    "install the headers (Debian: libonnxruntime-dev), or set OnnxRuntime_ROOT to an unpacked ONNX Runtime release")

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::Headers)
  add_library(OnnxRuntime::Headers INTERFACE IMPORTED)
  target_include_directories(OnnxRuntime::Headers SYSTEM INTERFACE ${OnnxRuntime_INCLUDE_DIR})
endif()
mark_as_advanced(OnnxRuntime_INCLUDE_DIR)
