"""The folders of the package's native parts, and the console script `isthmus-run`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

__all__ = ["binary", "cmake_dir", "include_dir", "lib_dir", "run"]


def _root() -> Path:
    """Returns the native module's folder: the package's, or the installed one when editable."""
    spec = importlib.util.find_spec("isthmus._core")
    if spec is None or spec.origin is None:
        raise ImportError(
            "isthmus._core, the native part of isthmus, is not built: run `pip install .`, or "
            "`pip install -e . --no-build-isolation` to work on it"
        )
    return Path(spec.origin).parent


def binary() -> Path:
    """Returns the program isthmus-run; the variable `ISTHMUS_RUN` names another one."""
    chosen = os.environ.get("ISTHMUS_RUN")
    return Path(chosen) if chosen else _root() / "bin" / "isthmus-run"


def lib_dir() -> Path:
    """Returns the folder of libisthmus and the engines."""
    return _root() / "lib"


def include_dir() -> Path:
    """Returns the folder to put on a compiler's include path."""
    return _root() / "include"


def cmake_dir() -> Path:
    """Returns the folder of isthmusConfig.cmake, for `-Disthmus_DIR=...`."""
    return _root() / "lib" / "cmake" / "isthmus"


def run() -> None:
    """Replaces this process by the program; the console script `isthmus-run`."""
    program = binary()
    os.execv(program, [str(program), *sys.argv[1:]])
