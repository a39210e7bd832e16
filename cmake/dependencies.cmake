# Third-party packages: an installed copy first, else a pinned download.
include(FetchContent)
find_package(Threads REQUIRED)
find_package(OpenSSL 1.1 REQUIRED COMPONENTS Crypto)

FetchContent_Declare(
  nlohmann_json
  URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
  URL_HASH SHA256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
  FIND_PACKAGE_ARGS 3.10)
FetchContent_MakeAvailable(nlohmann_json)
if(ISTHMUS_CLI)
  find_package(CLI11 2.1 REQUIRED)
endif()
if(ISTHMUS_TESTS)
  find_package(doctest 2.4 REQUIRED)
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
