"""Reads proofs.json, where the native library keeps the verdicts that it reached on a machine."""

from __future__ import annotations

import json
from pathlib import Path

from isthmus.bundle.manifest import EngineProof
from isthmus.bundle.manifest_json import read_proof

__all__ = ["FILE", "read_proofs"]

FILE = "proofs.json"


def read_proofs(bundle: Path) -> tuple[EngineProof, ...]:
    """Returns the verdicts of all machines, the latest last; none when there is no such file.

    Raises:
        BundleError: A verdict is not what docs/format.md says.
        OSError: The file cannot be read.
        ValueError: The file is not JSON.
    """
    path = bundle / FILE
    if not path.exists():
        return ()
    document = json.loads(path.read_text(encoding="utf-8"))
    return tuple(read_proof(f"{FILE}: $.proofs", entry) for entry in document["proofs"])
