"""A TorchScript archive on disk."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import BundleError

__all__ = ["read_archive"]


def read_archive(path: Path, expected: str = "a TorchScript archive") -> bytes:
    """The bytes of a TorchScript archive, told from its content.

    Raises:
        BundleError: It is missing or something else; says what, and what to do.
    """
    from isthmus import _core

    if not path.exists():
        raise BundleError(f"{path}: there is no such file; expected {expected}")
    found = _core.identify_file(path)
    if found.kind != "torchscript":
        raise BundleError(f"{path}: expected {expected}, got {found.kind}; {found.advice}")
    return path.read_bytes()
