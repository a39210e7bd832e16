# Finds the headers of OpenVINO's C API in the openvino Python package or an unpacked OpenVINO. The
# build does not need the shared library: the engine opens one at run time.
#
# Searches OpenVINOHeaders_ROOT (variable or environment), the openvino package of the Python
# interpreter (Python_EXECUTABLE, else the one on the path), and the system's include folders.
#
# Sets OpenVINOHeaders_FOUND, OpenVINOHeaders_VERSION and OpenVINO_PACKAGE (the folder of the Python
# package's libraries; empty without one), and defines OpenVINO::Headers.

if(NOT Python_EXECUTABLE)
  find_package(Python COMPONENTS Interpreter QUIET)
endif()
if(Python_EXECUTABLE)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import importlib.util as u, os; s = u.find_spec('openvino'); print(os.path.dirname(s.origin) if s and s.origin else '')"
    OUTPUT_VARIABLE _OpenVINO_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_path(
  OpenVINOHeaders_INCLUDE_DIR
  NAMES openvino/c/openvino.h
  HINTS ${OpenVINOHeaders_ROOT} $ENV{OpenVINOHeaders_ROOT} ${_OpenVINO_root}
  PATH_SUFFIXES include runtime/include)
set(OpenVINO_PACKAGE "")
if(_OpenVINO_root)
  set(OpenVINO_PACKAGE ${_OpenVINO_root}/libs)
endif()

unset(OpenVINOHeaders_VERSION)
if(OpenVINOHeaders_INCLUDE_DIR)
  file(STRINGS ${OpenVINOHeaders_INCLUDE_DIR}/openvino/core/version.hpp _OpenVINO_lines
       REGEX "^#define OPENVINO_VERSION_(MAJOR|MINOR) [0-9]+")
  string(REGEX MATCHALL "[0-9]+" _OpenVINO_numbers "${_OpenVINO_lines}")
  string(REPLACE ";" "." OpenVINOHeaders_VERSION "${_OpenVINO_numbers}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OpenVINOHeaders
  REQUIRED_VARS OpenVINOHeaders_INCLUDE_DIR
  VERSION_VAR OpenVINOHeaders_VERSION
  REASON_FAILURE_MESSAGE "install it with `pip install openvino` for the interpreter ${Python_EXECUTABLE}")

if(OpenVINOHeaders_FOUND AND NOT TARGET OpenVINO::Headers)
  add_library(OpenVINO::Headers INTERFACE IMPORTED)
  target_include_directories(OpenVINO::Headers SYSTEM INTERFACE ${OpenVINOHeaders_INCLUDE_DIR})
endif()
mark_as_advanced(OpenVINOHeaders_INCLUDE_DIR)
