"""A file that is there whole, or as it was before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from isthmus.errors import InvalidInput


def write_atomically(path: str | Path, text: str) -> None:
    """Writes to a temporary name beside the file and renames that: nobody reads half of it.

    Raises:
        InvalidInput: It cannot be written.
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
