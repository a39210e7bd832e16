"""Reads and writes files beneath a directory, and replaces whole directories."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.bundle.manifest import CHUNK_BYTES, FileEntry
from isthmus.bundle.manifest_rules import path_fault
from isthmus.errors import BundleError

Source = Path | bytes
"""The content of a file: a path to copy it from, or bytes."""


class Directory:
    """Reads and writes files beneath a root, never outside of it or through a symbolic link."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def locate(self, path: str, size: int | None) -> Path:
        """Returns the path of a file in the file system.

        Args:
            path: The path from the root, with forward slashes.
            size: The expected size in bytes; None for any.

        Raises:
            BundleError: The path leaves the root, a part of it is a symbolic link, there is no
                such file, or it has another size.
        """
        fault = path_fault(path)
        if fault:
            raise BundleError(
                f'{self._root}: the path "{path}" {fault}; the bundle is not to trust'
            )
        place = self._root
        for part in path.split("/"):
            place = place / part
            if place.is_symlink():
                raise BundleError(
                    f"{self._root}: {path} passes through a symbolic link, which no bundle has; "
                    "copy the bundle with its real files"
                )
        if not place.is_file():
            raise BundleError(
                f"{self._root}: {path} is missing; fetch the bundle again or export again"
            )
        actual = place.stat().st_size
        if size is not None and actual != size:
            raise BundleError(
                f"{self._root}: {path} is truncated or changed: expected {size} bytes, got "
                f"{actual}; fetch the bundle again or export again"
            )
        return place

    def read(self, path: str, size: int | None, limit: int | None = None) -> bytes:
        """Returns the content of a file; see `locate`.

        Raises:
            BundleError: See `locate`; or the file is larger than `limit` bytes.
        """
        place = self.locate(path, size)
        with place.open("rb") as file:
            content = file.read() if limit is None else file.read(limit + 1)
        if limit is not None and len(content) > limit:
            raise BundleError(
                f"{self._root}: {path} is larger than the {limit} bytes allowed; isthmus did not "
                "write it"
            )
        return content

    def write(self, path: str, source: Source) -> FileEntry:
        """Writes a new file and returns its entry for the manifest.

        Raises:
            BundleError: The path leaves the root or is taken.
            OSError: The file cannot be written, or its source cannot be read.
        """
        place = self._new(path)
        digest, size = hashlib.sha256(), 0
        chunks = []
        with place.open("xb") as target:
            for chunk in _chunks(source):
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                chunks.append(hashlib.sha256(chunk).hexdigest())
        return FileEntry(path, size, digest.hexdigest(), tuple(chunks) if len(chunks) > 1 else ())

    def link(self, path: str, source: Path) -> None:
        """Adds a file as a hard link where the file system has them, else as a copy."""
        place = self._new(path)
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)

    def _new(self, path: str) -> Path:
        fault = path_fault(path)
        if fault:
            raise BundleError(
                f'the path "{path}" {fault}; expected a path in the bundle, with forward slashes'
            )
        place = self._root / path
        if place.exists():
            raise BundleError(f'two files of the bundle would be called "{path}"; rename one')
        place.parent.mkdir(parents=True, exist_ok=True)
        return place


def _chunks(source: Source) -> Iterator[bytes]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Yields an empty directory beside the target, on its file system, and removes it afterwards.

    Parents that had to be made are removed too when the body fails.
    """
    parents = [parent for parent in target.absolute().parents if not parent.exists()]
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    work: Path | None = None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
        # mkdtemp makes a private directory, and a bundle has the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        work.chmod(0o777 & ~umask)
        yield work
    except BaseException:
        _remove(work)
        for parent in parents:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    _remove(work)


def _remove(directory: Path | None) -> None:
    if directory is not None and directory.exists():
        shutil.rmtree(directory)


def replace_directory(new: Path, target: Path) -> None:
    """Renames a directory to the target, and removes what was there only afterwards.

    Raises:
        OSError: It could not be renamed; the target is as it was.
    """
    if not target.exists() or not any(target.iterdir()):
        new.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.absolute().parent))
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)
