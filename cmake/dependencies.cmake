# Third-party packages: an installed copy is preferred to a pinned download.
include(FetchContent)
find_package(Threads REQUIRED)
find_package(OpenSSL 1.1 REQUIRED COMPONENTS Crypto)
find_package(ZLIB REQUIRED)

FetchContent_Declare(
  nlohmann_json
  URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
  URL_HASH SHA256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
  FIND_PACKAGE_ARGS 3.10)
FetchContent_Declare(
  CLI11
  URL https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
  URL_HASH SHA256=f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a
  FIND_PACKAGE_ARGS 2.1)
FetchContent_Declare(
  doctest
  URL https://github.com/doctest/doctest/archive/refs/tags/v2.4.11.tar.gz
  URL_HASH SHA256=632ed2c05a7f53fa961381497bf8069093f0d6628c5f26286161fbd32a560186
  FIND_PACKAGE_ARGS 2.4)
FetchContent_MakeAvailable(nlohmann_json)
if(ISTHMUS_CLI)
  FetchContent_MakeAvailable(CLI11)
endif()
if(ISTHMUS_TESTS)
  FetchContent_MakeAvailable(doctest)
endif()

if(NOT ISTHMUS_TORCH STREQUAL "OFF")
  find_package(LibTorch 2.11 QUIET)
  if(LibTorch_FOUND)
    message(STATUS "LibTorch ${LibTorch_VERSION_FULL} (CUDA ${LibTorch_CUDA}) in ${LibTorch_DIRECTORY}")
  elseif(ISTHMUS_TORCH STREQUAL "ON")
    message(FATAL_ERROR "ISTHMUS_TORCH=ON, but LibTorch 2.11 or later was not found. Install it with `pip install torch` "
            "for ${Python_EXECUTABLE}, or set LibTorch_ROOT to an unpacked LibTorch, or set ISTHMUS_TORCH=OFF.")
  else()
    message(STATUS "LibTorch not found: building without the torchscript engine (ISTHMUS_TORCH=ON makes this an error)")
  endif()
endif()

# The headers of the CUDA runtime, for CUDA graphs and streams per caller.
if(ISTHMUS_CUDA_GRAPHS STREQUAL "OFF")
  set(CudaHeaders_MISSING "ISTHMUS_CUDA_GRAPHS is OFF")
elseif(LibTorch_FOUND)
  find_package(CudaHeaders QUIET)
  if(CudaHeaders_FOUND)
    message(STATUS "CUDA graphs: with the headers of CUDA ${CudaHeaders_VERSION} in ${CudaHeaders_DIRECTORIES}")
  elseif(ISTHMUS_CUDA_GRAPHS STREQUAL "ON")
    message(FATAL_ERROR "ISTHMUS_CUDA_GRAPHS=ON, but ${CudaHeaders_MISSING}. Install a CUDA build of torch and "
            "its CUDA headers (nvidia-cuda-runtime and nvidia-cuda-crt, or a CUDA toolkit), set CudaHeaders_ROOT to "
            "their folder, or set ISTHMUS_CUDA_GRAPHS=OFF.")
  else()
    message(STATUS "CUDA graphs: not built, ${CudaHeaders_MISSING}")
  endif()
endif()

# The headers of ONNX Runtime. AUTO uses installed ones; ON downloads them when there are none.
if(NOT ISTHMUS_ONNXRUNTIME STREQUAL "OFF")
  find_package(OnnxRuntime QUIET)
  if(NOT OnnxRuntime_FOUND AND ISTHMUS_ONNXRUNTIME STREQUAL "ON")
    FetchContent_Declare(
      onnxruntime_release
      URL https://github.com/microsoft/onnxruntime/releases/download/v1.21.0/onnxruntime-linux-x64-1.21.0.tgz
      URL_HASH SHA256=7485c7e7aac6501b27e353dcbe068e45c61ab51fbaf598d13970dfae669d20bf)
    FetchContent_MakeAvailable(onnxruntime_release)
    set(OnnxRuntime_ROOT ${onnxruntime_release_SOURCE_DIR})
    find_package(OnnxRuntime REQUIRED)
  endif()
  if(OnnxRuntime_FOUND)
    message(STATUS "ONNX Runtime headers of API ${OnnxRuntime_API_VERSION} in ${OnnxRuntime_INCLUDE_DIR}")
  else()
    message(STATUS "ONNX Runtime's headers not found: building without the onnxruntime engine (ISTHMUS_ONNXRUNTIME=ON downloads them)")
  endif()
endif()

# The headers of OpenVINO's C API, which are part of the openvino Python package.
if(NOT ISTHMUS_OPENVINO STREQUAL "OFF")
  find_package(OpenVINOHeaders QUIET)
  if(OpenVINOHeaders_FOUND)
    message(STATUS "OpenVINO ${OpenVINOHeaders_VERSION} headers in ${OpenVINOHeaders_INCLUDE_DIR}")
  elseif(ISTHMUS_OPENVINO STREQUAL "ON")
    message(FATAL_ERROR "ISTHMUS_OPENVINO=ON, but OpenVINO's headers were not found. Install them with `pip install openvino` "
            "for ${Python_EXECUTABLE}, or set OpenVINOHeaders_ROOT to an unpacked OpenVINO, or set ISTHMUS_OPENVINO=OFF.")
  else()
    message(STATUS "OpenVINO's headers not found: building without the openvino engine (`pip install openvino` brings them)")
  endif()
endif()
