"""Compiles the program that calls LibTorch directly, and writes its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from shared import compile_program

SOURCE = Path(__file__).with_name("bare.cpp")


def build(folder: Path) -> tuple[Path | None, str]:
    """Compiles it against the torch of this Python; returns None and the reason on failure."""
    program = folder / f"libtorch-bare-{torch.__version__}"
    home = Path(torch.__file__).parent
    include, libraries = home / "include", home / "lib"
    cuda = ["-ltorch_cuda", "-lc10_cuda"] if (libraries / "libtorch_cuda.so").exists() else []
    return compile_program(
        SOURCE,
        program,
        [
            f"-I{include}", f"-I{include}/torch/csrc/api/include",
            f"-L{libraries}", f"-Wl,-rpath,{libraries}",
            "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", *cuda,
            "-Wl,--allow-shlib-undefined", "-pthread",
        ],
    )  # fmt: skip


def write_inputs(path: Path, values: Sequence[np.ndarray]) -> Path:
    """Writes the inputs as the program reads them: all numbers are int64."""
    numbers = [np.array([len(values)])]
    for value in values:
        numbers += [np.array([value.ndim, *value.shape]), value.ravel()]
    np.concatenate(numbers).astype(np.int64).tofile(path)
    return path
