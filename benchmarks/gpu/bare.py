"""The program that calls LibTorch bare: compiled, and given its inputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

SOURCE = Path(__file__).with_name("bare.cpp")


def build(folder: Path) -> tuple[Path | None, str]:
    """The program, compiled against the torch of this Python; or None and why it is not there."""
    program = folder / f"libtorch-bare-{torch.__version__}"
    if program.exists() and program.stat().st_mtime > SOURCE.stat().st_mtime:
        return program, ""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None, "no C++ compiler: install g++, or name one in CXX"
    home = Path(torch.__file__).parent
    include, libraries = home / "include", home / "lib"
    cuda = ["-ltorch_cuda", "-lc10_cuda"] if (libraries / "libtorch_cuda.so").exists() else []
    print(f"compiling {program}", file=sys.stderr)
    done = subprocess.run(
        [
            compiler, "-std=c++20", "-O2", "-DNDEBUG",
            f"-I{include}", f"-I{include}/torch/csrc/api/include", str(SOURCE),
            f"-L{libraries}", f"-Wl,-rpath,{libraries}",
            "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", *cuda,
            "-Wl,--allow-shlib-undefined", "-pthread", "-o", str(program),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return None, f"{SOURCE.name} does not compile: {done.stderr.strip()[-300:]}"
    return program, ""


def write_inputs(path: Path, values: Sequence[np.ndarray]) -> Path:
    """As the program reads them: all numbers are int64."""
    numbers = [np.array([len(values)])]
    for value in values:
        numbers += [np.array([value.ndim, *value.shape]), value.ravel()]
    np.concatenate(numbers).astype(np.int64).tofile(path)
    return path
