"""Reads a TorchScript archive from disk."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import BundleError

__all__ = ["read_archive"]


def read_archive(path: Path, expected: str = "a TorchScript archive") -> bytes:
    """Returns the bytes of a TorchScript archive, identified by its content.

    Raises:
        BundleError: The file is missing or of another kind; says which, and what to do.
    """
    from isthmus import _core

    if not path.exists():
        raise BundleError(f"{path}: there is no such file; expected {expected}")
    identified = _core.identify_file(path)
    if identified.kind != "torchscript":
        raise BundleError(
            f"{path}: expected {expected}, got {identified.kind}; {identified.advice}"
        )
    return path.read_bytes()
