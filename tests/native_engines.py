"""Engines and operators written for the tests, compiled against the installed libraries."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from isthmus.runtime import install_paths

REPOSITORY = Path(__file__).parents[1]


def compile_engine(source: str, folder: Path, name: str, **definitions: str) -> Path:
    """Compiles a source of this folder as the engine library `name`; returns its path."""
    library = install_paths.binary().resolve().parents[1] / "lib"
    target = folder / f"libisthmus_engine_{name}.so"
    subprocess.run(
        [
            *("g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"),
            f"-I{REPOSITORY / 'cpp' / 'include'}",
            *(f'-D{key}="{value}"' for key, value in definitions.items()),
            Path(__file__).with_name(source),
            *("-o", target, f"-L{library}", "-listhmus", "-ldl"),
        ],
        check=True,
    )
    return target


OPERATOR = """
#include <torch/library.h>
#include <ATen/ATen.h>
static at::Tensor twice(const at::Tensor& x) { return x * 2; }
TORCH_LIBRARY(isthmus_test, m) {
  m.def("twice(Tensor x) -> Tensor");
  m.impl("twice", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(twice));
}
"""


def compile_operators(target: Path, more: str = "") -> Path:
    """Compiles a library that registers `isthmus_test::twice`; returns its path.

    It is linked as the packages on PyPI are, against the part of torch for Python too.

    Args:
        target: The path of the library.
        more: Source at the end of its own.
    """
    root = Path(torch.__file__).parent
    source = target.with_suffix(".cpp")
    source.write_text(OPERATOR + more)
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    subprocess.run(
        ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
         f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include", source, "-o", target,
         f"-L{root}/lib", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-ltorch_python",
         "-lc10"],
        check=True,
    )  # fmt: skip
    return target
