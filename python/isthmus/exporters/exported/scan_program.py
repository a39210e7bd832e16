"""Scans an exported program, as C++ does before it loads one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus import _core

__all__ = ["scan_program"]


def scan_program(archive: bytes) -> _core.ExportedScan:
    """Scans a program in a process that has the libraries of all its operators."""
    from isthmus import _core

    scan = _core.scan_exported_program(archive)
    if not scan.unknown_namespaces:
        return scan
    return _core.scan_exported_program(archive, set(scan.unknown_namespaces))
