"""CMake projects of users build against the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import isthmus
from isthmus.runtime import install_paths
from models import CASES

EXAMPLE = Path(__file__).parent.parent / "examples" / "cpp_consumer"
pytestmark = pytest.mark.slow


def run(*command: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, timeout=600, **options)  # type: ignore[call-overload]


def cmake(source: Path, build: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        "cmake",
        "-S",
        source,
        "-B",
        build,
        "-G",
        "Ninja",
        f"-DPython_EXECUTABLE={sys.executable}",
        *arguments,
    )


def must(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_cmake_dir_is_printed_and_holds_the_config() -> None:
    printed = must(run(sys.executable, "-m", "isthmus", "--cmake-dir")).strip()
    assert Path(printed) == install_paths.cmake_dir()
    assert (Path(printed) / "isthmusConfig.cmake").is_file()


def test_example_configures_builds_and_runs(minilm_bundle: isthmus.Bundle, tmp_path: Path) -> None:
    must(cmake(EXAMPLE, tmp_path, f"-Disthmus_DIR={install_paths.cmake_dir()}"))
    must(run("cmake", "--build", tmp_path))
    # The environment is empty, so that the program finds its libraries without Python or the build.
    ran = run(tmp_path / "app", minilm_bundle.path, "101", "2040", "2001", "102", env={})
    assert "last_hidden_state: float32[1, 4, 384] on cpu" in must(ran)
    bad = run(tmp_path / "app", minilm_bundle.path.parent / "nowhere", "101", env={})
    assert bad.returncode == 3
    assert "nowhere" in bad.stderr


def test_example_with_libtorch_tensors(minilm_bundle: isthmus.Bundle, tmp_path: Path) -> None:
    must(cmake(EXAMPLE, tmp_path, f"-Disthmus_DIR={install_paths.cmake_dir()}", "-DWITH_TORCH=ON"))
    must(run("cmake", "--build", tmp_path, "--target", "app_torch"))
    ran = run(tmp_path / "app_torch", minilm_bundle.path, "101", "2040", "2001", "102", env={})
    assert "last_hidden_state: [1, 4, 384]" in must(ran)


TORCH_PROJECT = """\
cmake_minimum_required(VERSION 3.25)
project(calls LANGUAGES CXX)
find_package(isthmus REQUIRED COMPONENTS torch)
add_executable(calls calls.cpp)
target_link_libraries(calls PRIVATE isthmus::torch)
"""
TORCH_CALLS = """\
#include <ATen/ATen.h>
#include <iostream>
#include <isthmus/torch.h>
template <typename Call>
void refused(Call call) {
  try {
    call();
    std::cout << "accepted\\n";
  } catch (const isthmus::InvalidInput& error) {
    std::cout << error.what() << '\\n';
  }
}
int main(int, char** argv) {
  const auto model = isthmus::Model::load(argv[1]);
  auto session = model.session();
  const at::Tensor x = at::ones({1, 4});
  const auto outputs = isthmus::run(session, {{"x", x}});
  const at::Tensor first = outputs["output"].clone();
  isthmus::run(session, {{"x", x}});
  isthmus::call(session, "reset", {});
  std::cout << "again " << at::equal(first, isthmus::run(session, {{"x", x}})["output"]) << '\\n';
  refused([&] { outputs["nothing"]; });
  refused([&] { isthmus::call(model, "reset", {{"unknown", x}}); });
  refused([&] { isthmus::run(model, {{"x", x}, {"x", x}}); });
  refused([&] { isthmus::run(model, {}); });
}
"""


def test_calls_with_libtorch_tensors_are_checked(tmp_path: Path) -> None:
    streaming = next(case for case in CASES if case.name == "streaming")
    args, kwargs = streaming.example()
    bundle = isthmus.export(
        streaming.module(), args, kwargs, path=tmp_path / "b", **streaming.options()
    )
    (tmp_path / "CMakeLists.txt").write_text(TORCH_PROJECT)
    (tmp_path / "calls.cpp").write_text(TORCH_CALLS)
    must(cmake(tmp_path, tmp_path / "build", f"-Disthmus_DIR={install_paths.cmake_dir()}"))
    must(run("cmake", "--build", tmp_path / "build"))
    lines = must(run(tmp_path / "build" / "calls", bundle.path, env={})).splitlines()
    assert lines[0] == "again 1"
    for line, word in zip(
        lines[1:], ('no output "nothing"', '"unknown"', "given twice", '"x"'), strict=True
    ):
        assert word in line


def test_consumer_with_another_torch_is_told_both_versions(tmp_path: Path) -> None:
    fake = tmp_path / "libtorch"
    header = fake / "include/torch/csrc/api/include/torch/torch.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (fake / "lib").mkdir()
    for name in ("c10", "torch_cpu", "torch"):
        (fake / "lib" / f"lib{name}.so").touch()
    (fake / "build-version").write_text("2.5.1+cpu\n")
    result = cmake(
        EXAMPLE,
        tmp_path / "build",
        f"-Disthmus_DIR={install_paths.cmake_dir()}",
        "-DWITH_TORCH=ON",
        f"-DLibTorch_ROOT={fake}",
    )
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    minor = ".".join(torch.__version__.split(".")[:2])
    assert f"built for torch {minor}, found 2.5.1" in message
    assert f"{sys.executable} -m pip install 'torch=={minor}.*'" in message


FIND_PROJECT = """\
cmake_minimum_required(VERSION 3.25)
project(finder LANGUAGES CXX)
list(PREPEND CMAKE_MODULE_PATH {modules})
find_package(LibTorch REQUIRED)
message(STATUS "found=${{LibTorch_VERSION}} cuda=${{LibTorch_CUDA}}")
add_executable(app main.cpp)
target_link_libraries(app PRIVATE LibTorch::LibTorch)
"""


def finder(folder: Path) -> Path:
    folder.mkdir()
    modules = EXAMPLE.parent.parent / "cmake"
    (folder / "CMakeLists.txt").write_text(FIND_PROJECT.format(modules=modules))
    (folder / "main.cpp").write_text("int main() {}\n")
    return folder


def test_libtorch_is_found_in_the_package_and_as_an_unpacked_archive(tmp_path: Path) -> None:
    package = Path(torch.__file__).parent
    source = finder(tmp_path / "source")
    version = torch.__version__.partition("+")[0]
    assert f"found={version}" in must(cmake(source, tmp_path / "package"))

    unpacked = tmp_path / "libtorch"  # the archive's layout: no version.py, but build-version
    unpacked.mkdir()
    for part in ("include", "lib", "share"):
        (unpacked / part).symlink_to(package / part)
    (unpacked / "build-version").write_text(torch.__version__ + "\n")
    out = must(cmake(source, tmp_path / "archive", f"-DLibTorch_ROOT={unpacked}"))
    assert f"found={version}" in out


def test_cuda_libtorch_configures_without_a_cuda_toolkit(tmp_path: Path) -> None:
    """A CUDA build's folder is enough: no nvcc, NVTX or MKL is sought."""
    package = Path(torch.__file__).parent
    unpacked = tmp_path / "libtorch"
    (unpacked / "lib").mkdir(parents=True)
    for library in (package / "lib").iterdir():
        (unpacked / "lib" / library.name).symlink_to(library)
    for name in ("c10_cuda", "torch_cuda"):
        # Any shared library stands in for the CUDA one: only finding and linking are tested here.
        (unpacked / "lib" / f"lib{name}.so").symlink_to(package / "lib" / "libc10.so")
    for part in ("include", "share"):
        (unpacked / part).symlink_to(package / part)
    (unpacked / "build-version").write_text(torch.__version__ + "\n")
    source = finder(tmp_path / "source")
    environment = {**os.environ, "CUDA_HOME": "", "CUDACXX": ""}
    result = run(
        "cmake",
        *("-S", source, "-B", tmp_path / "build", "-G", "Ninja"),
        f"-DLibTorch_ROOT={unpacked}",
        env=environment,
    )
    assert "cuda=ON" in must(result)
    must(run("cmake", "--build", tmp_path / "build"))
    needed = must(run("readelf", "-d", tmp_path / "build" / "app"))
    assert "libc10.so" in needed


def test_missing_libtorch_says_how_to_get_it(tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    empty.mkdir()
    result = cmake(finder(tmp_path / "source"), tmp_path / "build", f"-DLibTorch_ROOT={empty}")
    assert result.returncode != 0
    assert "pip install torch" in result.stderr
    assert "LibTorch_ROOT" in result.stderr
