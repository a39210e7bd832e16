"""Edits the manifest of a bundle on disk, as somebody who tampers with a bundle would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def rewrite_manifest(bundle: Path) -> Iterator[dict[str, Any]]:
    """Yields the manifest as JSON values, and writes it back with whatever was changed.

    The size and the digest of each listed file are those of the file on disk, so that a test may
    also replace files: before, or inside the context.
    """
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    yield manifest
    entries = [entry for artifact in manifest["artifacts"] for entry in artifact["files"]]
    entries += [golden["file"] for golden in manifest["goldens"]] + manifest.get("files", [])
    for entry in entries:
        content = (bundle / entry["path"]).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if entry.get("sha256") != digest:
            entry.update(size=len(content), sha256=digest)
            entry.pop("chunks", None)
    path.write_text(json.dumps(manifest), "utf-8")
