"""Writes bundles atomically, and reads them with every byte checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.bundle_files import Directory, Source, hash_file, replace_directory, staging
from isthmus.bundle.manifest import (
    FORMAT,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Artifact,
    FileEntry,
    GoldenEntry,
    GoldenStep,
    Manifest,
)
from isthmus.bundle.manifest_json import dumps, loads
from isthmus.errors import BundleError, InvalidInput

if TYPE_CHECKING:
    from isthmus.bundle.format_result import FormatResult
    from isthmus.bundle.golden import Golden

_SIDES = ("in", "out", "error")
"""The second part of a tensor's name in the file of a golden."""

__all__ = [
    "ArtifactFiles",
    "Bundle",
    "add_artifact",
    "check_destination",
    "open_bundle",
    "with_goldens",
    "write_bundle",
]

ArtifactFiles = Source | Mapping[str, Source]
"""A file, kept as artifacts/NAME.SUFFIX, or several by file name, the file to open first."""


@dataclass(frozen=True)
class Bundle:
    """A bundle with its checked manifest; files are checked when they are read."""

    path: Path
    manifest: Manifest
    results: tuple[FormatResult, ...] = field(default=(), compare=False)
    """The result of the export of each format; empty for a bundle that was opened."""

    @cached_property
    def _directory(self) -> Directory:
        return Directory(self.path)

    def read(self, entry: FileEntry) -> bytes:
        """Returns the content of a listed file.

        Raises:
            BundleError: The file is missing, changed, or reached through a symbolic link.
        """
        content = self._directory.read(entry.path, entry.size)
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            raise BundleError(_changed(self.path, entry, digest))
        return content

    def golden(self, name: str) -> Golden:
        """Returns a golden with its tensors, on the CPU.

        Raises:
            InvalidInput: There is no golden of that name.
            BundleError: Its file is missing, changed or damaged.
        """
        for entry in self.manifest.goldens:
            if entry.name == name:
                return _parse_golden(entry, self.read(entry.file))
        names = ", ".join(golden.name for golden in self.manifest.goldens)
        raise InvalidInput(f'{self.path} has no golden "{name}"; there are: {names or "none"}')

    def goldens(self) -> list[Golden]:
        """Returns all goldens, in the order of the manifest."""
        return [self.golden(golden.name) for golden in self.manifest.goldens]

    def specials(self) -> list[tuple[Golden, Mapping[str, str]]]:
        """Returns the goldens of special values, each with `GoldenEntry.special`."""
        return [
            (_parse_golden(entry, self.read(entry.file)), entry.special)
            for entry in self.manifest.specials
        ]

    def artifact(self, name: str) -> Artifact:
        """Returns the artifact of that name.

        Raises:
            InvalidInput: There is no artifact of that name.
        """
        for artifact in self.manifest.artifacts:
            if artifact.name == name:
                return artifact
        names = ", ".join(artifact.name for artifact in self.manifest.artifacts)
        raise InvalidInput(f'{self.path} has no artifact "{name}"; there are: {names or "none"}')

    def files(self) -> tuple[FileEntry, ...]:
        """Returns every file that the manifest lists."""
        artifacts = [entry for artifact in self.manifest.artifacts for entry in artifact.files]
        goldens = [golden.file for golden in (*self.manifest.goldens, *self.manifest.specials)]
        return (*artifacts, *goldens, *self.manifest.files)

    def verify_files(self) -> tuple[str, ...]:
        """Checks every listed file, and returns one line for each fault."""
        faults = []
        for entry in self.files():
            try:
                digest = hash_file(self._directory.locate(entry.path, entry.size))
            except BundleError as error:
                faults.append(str(error))
                continue
            if digest != entry.sha256:
                faults.append(_changed(self.path, entry, digest))
        return tuple(faults)


def _changed(root: Path, entry: FileEntry, digest: str) -> str:
    return (
        f"{root}: {entry.path} is not the file that was written: expected sha256 {entry.sha256}, "
        f"got {digest}; fetch the bundle again or export again"
    )


# --- reading --------------------------------------------------------------------------------------


def open_bundle(path: str | Path | Bundle) -> Bundle:
    """Opens a bundle: reads and checks its manifest, and no other file.

    A bundle that is open already is returned as it is.

    Raises:
        BundleError: There is no bundle, or its manifest is damaged, newer or not of isthmus.
    """
    if isinstance(path, Bundle):
        return path
    root = Path(path)
    if not root.exists():
        raise BundleError(f"{root}: there is no such directory; export() makes a bundle there")
    if not root.is_dir():
        raise BundleError(
            f"{root}: expected a bundle, which is a directory with a {MANIFEST_NAME}, got a file; "
            "`isthmus adopt` makes a bundle of a TorchScript, ONNX or AOTInductor file"
        )
    if not (root / MANIFEST_NAME).exists():
        raise BundleError(
            f"{root}: expected a bundle, got a directory without {MANIFEST_NAME}; give the "
            "directory that export() wrote"
        )
    text = Directory(root).read(MANIFEST_NAME, None, MAX_MANIFEST_BYTES)
    try:
        return Bundle(root, loads(text))
    except BundleError as error:
        raise BundleError(f"{root}: {error}") from error


def _parse_golden(entry: GoldenEntry, content: bytes) -> Golden:
    import safetensors.torch

    from isthmus.bundle.golden import Golden, Step

    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:
        raise BundleError(
            f"{entry.file.path}: expected safetensors, got something else ({error}); export again"
        ) from error
    steps = [Step(step.method, {}, {}) for step in entry.steps]
    for key in tensors:
        number, _, rest = key.partition("/")
        side, _, name = rest.partition("/")
        if not number.isdecimal() or int(number) >= len(steps) or side not in _SIDES:
            raise BundleError(
                f'{entry.file.path}: unexpected tensor "{key}"; expected STEP/in/NAME, '
                f"STEP/out/NAME or STEP/error/NAME with STEP below {len(steps)}: export again"
            )
        step = steps[int(number)]
        {"in": step.inputs, "out": step.outputs, "error": step.errors}[side][name] = tensors[key]
    return Golden(entry.name, dict(entry.dims), tuple(steps))


# --- writing --------------------------------------------------------------------------------------


def check_destination(path: str | Path, *, overwrite: bool) -> None:
    """Refuses a path where no bundle may be written, before any work is done.

    Raises:
        BundleError: The path is taken: without `overwrite`, by anything but an empty directory;
            with it, by anything but a bundle.
    """
    target = Path(path)
    if target.is_symlink():
        raise BundleError(f"{target} is a symbolic link; give the directory itself")
    if not target.exists():
        return
    if not target.is_dir():
        raise BundleError(f"{target} is a file; a bundle is a directory: give another path")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise BundleError(
            f"{target} exists already; pass overwrite=True (--overwrite) to replace a bundle, or "
            "give another path"
        )
    if not _looks_like_bundle(target):
        raise BundleError(
            f"{target} exists and is no isthmus bundle, so it is not overwritten; give another "
            "path, or remove it yourself"
        )


def _looks_like_bundle(root: Path) -> bool:
    """Returns True for a directory that isthmus wrote, even when it is older, newer or damaged."""
    manifest = root / MANIFEST_NAME
    if not manifest.is_file() or manifest.stat().st_size > MAX_MANIFEST_BYTES:
        return False
    return f'"format": "{FORMAT}"' in manifest.read_text("utf-8", errors="replace")[:4096]


def write_bundle(
    path: str | Path,
    manifest: Manifest,
    *,
    artifact_files: Mapping[str, ArtifactFiles],
    goldens: Sequence[Golden] = (),
    specials: Sequence[tuple[Golden, Mapping[str, str]]] = (),
    extra_files: Mapping[str, Source] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle atomically.

    It is written to a temporary directory beside its destination, which is renamed at the end.

    Args:
        path: The directory to make; missing parents are made too.
        manifest: The manifest; `files` of the artifacts, `goldens` and `files` are filled in.
        artifact_files: The files of each artifact: a path or bytes, or several by file name.
        goldens: The goldens with their tensors.
        specials: Goldens of special values, each with `GoldenEntry.special`.
        extra_files: Further files by path in the bundle, such as "tokenizer/tokenizer.json".
        overwrite: True to replace a bundle at the path; nothing else is ever replaced.

    Returns:
        The bundle, opened.

    Raises:
        BundleError: The destination is taken, or the manifest would not be readable.
        OSError: The disk is full, a source is missing, ...; nothing is left behind.
    """
    target = Path(path)
    check_destination(target, overwrite=overwrite)
    _check_artifacts(manifest, artifact_files)
    with staging(target) as work:
        directory = Directory(work)
        artifacts = tuple(
            replace(
                artifact,
                files=_write_artifact(directory, artifact.name, artifact_files[artifact.name]),
            )
            for artifact in manifest.artifacts
        )
        extra = tuple(directory.write(name, source) for name, source in (extra_files or {}).items())
        entries = tuple(_write_golden(directory, golden) for golden in goldens)
        complete = replace(
            manifest,
            artifacts=artifacts,
            goldens=entries,
            specials=tuple(
                replace(_write_golden(directory, golden), special=dict(special))
                for golden, special in specials
            ),
            files=extra,
        )
        _write_manifest(directory, complete)
        replace_directory(work, target)
    return Bundle(target, complete)


def add_artifact(
    bundle: Bundle,
    artifact: Artifact,
    files: ArtifactFiles,
) -> Bundle:
    """Adds an artifact to a bundle, or replaces the artifact of that name, atomically.

    Args:
        bundle: The bundle; use the returned object afterwards.
        artifact: The artifact; its `files` are filled in.
        files: A path or bytes, or several by file name.

    Returns:
        The bundle with the artifact.

    Raises:
        BundleError: A file of the bundle is missing or changed.
        OSError: The disk is full, ...; the bundle stays as it was.
    """
    faults = bundle.verify_files()
    if faults:
        raise BundleError(faults[0])
    before = {other.name: other for other in bundle.manifest.artifacts}
    others = [other for other in before.values() if other.name != artifact.name]
    linked = {entry.path for other in others for entry in other.files}
    linked |= {golden.file.path for golden in bundle.manifest.goldens}
    linked |= {golden.file.path for golden in bundle.manifest.specials}
    linked |= {file.path for file in bundle.manifest.files}
    with staging(bundle.path) as work:
        directory = Directory(work)
        for path in sorted(linked):
            directory.link(path, bundle.path / path)
        added = replace(artifact, files=_write_artifact(directory, artifact.name, files))
        # A dictionary keeps the place of an artifact that is replaced.
        artifacts = {**before, added.name: added}
        complete = replace(bundle.manifest, artifacts=tuple(artifacts.values()))
        _write_manifest(directory, complete)
        replace_directory(work, bundle.path)
    return Bundle(bundle.path, complete)


def with_goldens(bundle: Bundle, goldens: Sequence[Golden], path: str | Path) -> Bundle:
    """Writes a bundle of the same artifacts with other goldens, hard-linking files where possible.

    Args:
        bundle: The bundle, which is not changed.
        goldens: The goldens with their tensors.
        path: The directory to make; it must not exist.

    Raises:
        BundleError: The destination is taken.
    """
    target = Path(path)
    check_destination(target, overwrite=False)
    others = (
        *(entry for artifact in bundle.manifest.artifacts for entry in artifact.files),
        *bundle.manifest.files,
    )
    with staging(target) as work:
        directory = Directory(work)
        for entry in others:
            directory.link(entry.path, bundle.path / entry.path)
        entries = tuple(_write_golden(directory, golden) for golden in goldens)
        warmup = tuple(entry.name for entry in entries[:1])
        complete = replace(bundle.manifest, goldens=entries, specials=(), warmup=warmup)
        _write_manifest(directory, complete)
        replace_directory(work, target)
    return Bundle(target, complete)


def _check_artifacts(manifest: Manifest, files: Mapping[str, ArtifactFiles]) -> None:
    names = {artifact.name for artifact in manifest.artifacts}
    if names != set(files):
        wrong = ", ".join(sorted(names ^ set(files)))
        raise BundleError(
            f"artifact_files: expected files for exactly the manifest's artifacts, got a "
            f"difference in: {wrong}"
        )


def _write_artifact(directory: Directory, name: str, files: ArtifactFiles) -> tuple[FileEntry, ...]:
    if not isinstance(files, Mapping):
        suffix = files.suffix if isinstance(files, Path) else ".pt"
        files = {f"{name}{suffix}": files}
    return tuple(directory.write(f"artifacts/{key}", file) for key, file in files.items())


def _write_golden(directory: Directory, golden: Golden) -> GoldenEntry:
    import safetensors.torch
    import torch

    tensors = {
        # Copies: safetensors refuses tensors that share memory.
        f"{number}/{side}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for number, step in enumerate(golden.steps)
        for side, values in zip(_SIDES, (step.inputs, step.outputs, step.errors), strict=True)
        for name, value in values.items()
    }
    content = safetensors.torch.save(tensors)
    return GoldenEntry(
        golden.name,
        directory.write(f"goldens/{golden.name}.safetensors", content),
        dict(golden.dims),
        tuple(GoldenStep(step.method) for step in golden.steps),
    )


def _write_manifest(directory: Directory, manifest: Manifest) -> None:
    text = dumps(manifest)
    # A manifest that cannot be read again must not be written.
    if loads(text) != manifest:
        raise BundleError("the manifest does not survive being written and read; report this")
    directory.write(MANIFEST_NAME, text.encode())
