"""Engines written for the tests, compiled against the installed library."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
