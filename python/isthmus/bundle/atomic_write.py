"""Writes files atomically: a file has its new content or its old one, and no part of either."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from isthmus.errors import InvalidInput


def write_atomically(path: str | Path, text: str) -> None:
    """Writes text to a temporary file beside the target, and renames it.

    Args:
        path: The file to write or replace.
        text: The new content, written as UTF-8.

    Raises:
        InvalidInput: The file cannot be written.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.name}.", delete=False, encoding="utf-8"
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InvalidInput(f"{target} cannot be written ({error}); name another file") from error
