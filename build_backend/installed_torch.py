"""Finds the torch that a build is made for, without importing it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["NEWEST", "OLDEST", "Torch", "find_torch"]

OLDEST = (2, 11)
"""The oldest minor version that isthmus builds against."""
NEWEST = (2, 14)
"""The newest minor version that was tried, which is taken where there is none."""

_NAMES = ("LibTorch_ROOT", "ISTHMUS_LIBTORCH")
"""The variables that name a LibTorch, in the order in which CMake takes them."""

_FIND = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"


@dataclass(frozen=True)
class Torch:
    """A torch package or an unpacked LibTorch."""

    folder: Path
    version: str
    """The version with its local part, such as 2.13.0+cpu."""

    @property
    def minor(self) -> tuple[int, int]:
        """The major and minor version, within which LibTorch keeps its binary interface."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def _torch_in(folder: Path) -> Torch | None:
    """Returns the torch whose package or unpacked archive is this folder."""
    version = folder / "version.py"
    archive = folder / "build-version"
    if version.is_file():
        line = re.search(r"^__version__ = '(\d+\.\d+[^']*)'", version.read_text(), re.MULTILINE)
        return Torch(folder, line[1]) if line else None
    return Torch(folder, archive.read_text().strip()) if archive.is_file() else None


def find_torch(folder: str = "") -> Torch | None:
    """Returns the torch to build against.

    It is sought in the folder that is named (the argument, or the variables `LibTorch_ROOT` and
    `ISTHMUS_LIBTORCH`), on the path of this process (a build without isolation, or a torch among
    the requirements of the build), and in the environment that the build was called from, which
    build isolation hides.

    Raises:
        SystemExit: The folder that is named holds no torch, or the torch is too old.
    """
    named = folder or next((os.environ[name] for name in _NAMES if os.environ.get(name)), "")
    if named:
        torch = _torch_in(Path(named))
        if torch is None:
            raise SystemExit(
                f"isthmus: {named}, which LibTorch_ROOT or ISTHMUS_LIBTORCH names, is no LibTorch: "
                "expected the folder of a torch package (with version.py) or of an unpacked "
                "LibTorch (with build-version)"
            )
    else:
        torch = _torch_on_path() or next(
            (torch for python in _calling_pythons() if (torch := _torch_of(python))), None
        )
    if torch is not None and torch.minor < OLDEST:
        raise SystemExit(
            f"isthmus needs torch {OLDEST[0]}.{OLDEST[1]} or later, found torch {torch.version} in "
            f"{torch.folder}: install a newer one, with `pip install --upgrade torch`, and build "
            "isthmus again"
        )
    return torch


def _torch_on_path() -> Torch | None:
    spec = find_spec("torch")
    return _torch_in(Path(spec.origin).parent) if spec is not None and spec.origin else None


def _torch_of(python: Path) -> Torch | None:
    """Returns the torch that an interpreter imports when its user starts it."""
    # pip hides the environment by these variables, and by a sitecustomize that the first one names.
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            [python, "-c", _FIND], capture_output=True, text=True, env=environment, check=False
        )
    except OSError:
        return None
    origin = done.stdout.strip()
    return _torch_in(Path(origin).parent) if done.returncode == 0 and origin else None


def _calling_pythons() -> list[Path]:
    """Returns the interpreters of the environment that the build was called from.

    pip runs a build with the interpreter of the environment that it installs into. uv runs it in an
    environment of its own, which it names in VIRTUAL_ENV; the variables and the folder that uv was
    started with tell the environment that it installs into.
    """
    pythons = [Path(sys.executable)]
    try:
        process = Path("/proc") / str(os.getppid())
        entries = (process / "environ").read_bytes().split(b"\0")
        folder = (process / "cwd").resolve()
    except OSError:
        return pythons
    started = dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    own = os.environ.get("VIRTUAL_ENV")
    if own and own != started.get("VIRTUAL_ENV") and Path(own) == Path(sys.prefix):
        named = [started[name] for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if started.get(name)]
        beside = [str(parent / ".venv") for parent in (folder, *folder.parents)]
        found = [Path(place) / "bin" / "python" for place in [*named, *beside]]
        pythons += [python for python in found if python.exists()][:1]
    return pythons
