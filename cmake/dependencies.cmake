# Third-party packages: an installed copy first, else a pinned download.
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
