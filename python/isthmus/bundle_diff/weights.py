"""Compares the weights of TorchScript and ONNX artifacts, a pair of tensors at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from isthmus.bundle.bundle_files import Directory
from isthmus.bundle.manifest import Artifact
from isthmus.bundle_diff.archive import ArchiveContents, StoredTensor, read_archive_contents
from isthmus.bundle_diff.findings import Findings, counted
from isthmus.document import number

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = [
    "TensorChange",
    "WeightsDiff",
    "archive_of",
    "compare_weights",
    "is_unnamed",
    "method_files",
    "model_name",
    "onnx_dtype",
    "report_weights",
    "stored_weights",
]

_CHUNK = 1 << 22
"""The number of elements that are compared at a time."""
_SMALL = 8
"""The most elements of an unnamed ONNX constant, whose values the graph shows."""
_UNNAMED = re.compile(r"^(val_\d+|onnx::\w+_\d+|_?\d+|/.*|clone\w*|lifted\w*|_tensor_constant\d+)$")
_CONSTANT = "constant "


@dataclass(frozen=True)
class TensorChange:
    """A tensor whose values differ."""

    name: str
    before: str
    """The dtype and shape in A: "float32[3, 4]"."""
    after: str
    """The dtype and shape in B."""
    elements: int = 0
    differing: int = 0
    max_abs: float = 0.0
    """The largest difference; NaN on one side only counts as infinite."""
    largest: float = 0.0
    """The largest magnitude in A."""

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest magnitude."""
        return self.max_abs / self.largest if self.largest else float("inf")


@dataclass(frozen=True)
class WeightsDiff:
    """The tensors of an artifact, before and after."""

    artifact: str
    equal: int
    """The number of tensors that are equal bit for bit, under any name."""
    renamed: int
    """The number of equal tensors that have another name in B."""
    changed: tuple[TensorChange, ...]
    """The changed tensors, the furthest first."""
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def __bool__(self) -> bool:
        """True when all tensors are equal."""
        return not (self.changed or self.removed or self.added)


def stored_weights(bundle: Bundle, artifact: Artifact) -> dict[str, StoredTensor]:
    """Returns the tensors by the model's names; constants in the code are "constant 0" and so on.

    Raises:
        BundleError: The file cannot be read in its format.
        ImportError: The file is ONNX, and the package onnx is not installed.
    """
    if artifact.format == "torchscript":
        archive = archive_of(bundle, artifact)
        named = {model_name(name): tensor for name, tensor in archive.tensors.items()}
        constants = enumerate(archive.constants)
        return named | {f"{_CONSTANT}{at}": constant for at, constant in constants}
    data = {Path(file.path).name for file in artifact.files[len(bundle.manifest.methods) :]}
    return {
        prefix + name: initializer
        for prefix, file in method_files(bundle, artifact)
        for name, initializer in _initializers(file, data).items()
    }


def archive_of(bundle: Bundle, artifact: Artifact) -> ArchiveContents:
    """Returns the contents of a TorchScript artifact."""
    entry = artifact.files[0]
    return read_archive_contents(Directory(bundle.path).locate(entry.path, entry.size))


def method_files(bundle: Bundle, artifact: Artifact) -> Iterator[tuple[str, Path]]:
    """Yields the ONNX file of each method, after the prefix of its names in a report."""
    methods = bundle.manifest.methods
    for entry, method in zip(artifact.files, methods, strict=False):
        prefix = "" if len(methods) == 1 else f"{method.name}: "
        yield prefix, Directory(bundle.path).locate(entry.path, entry.size)


def model_name(name: str) -> str:
    """Returns the path in the model, without the modules that isthmus puts around it."""
    return name.removeprefix("holder.").removeprefix("module.")


def is_unnamed(name: str) -> bool:
    """Returns True when an exporter invented the name of an ONNX value."""
    return _UNNAMED.match(name) is not None


def _initializers(file: Path, data: set[str]) -> dict[str, StoredTensor]:
    """Returns the tensors of an ONNX file; external data come from files that the bundle lists."""
    import onnx

    model: Any = onnx.load(str(file), load_external_data=False)
    tensors: dict[str, StoredTensor] = {}
    for initializer in model.graph.initializer:
        stored = _stored(initializer, file, data)
        if is_unnamed(initializer.name) and stored.elements <= _SMALL:
            continue
        tensors[model_name(initializer.name)] = stored
    return tensors


def _stored(initializer: Any, file: Path, data: set[str]) -> StoredTensor:
    import onnx
    from onnx import external_data_helper, numpy_helper

    def read() -> torch.Tensor:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(initializer)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            beside = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
            if beside not in data:  # the scanner of ONNX files refuses it as well
                raise ValueError(
                    f"{initializer.name} is in {beside!r}, which the bundle does not list"
                )
            external_data_helper.load_external_data_for_tensor(tensor, str(file.parent))
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype.kind not in "fiubc":  # NumPy lacks the type: compare its bytes
            array = array.view("u1")
        return torch.from_numpy(array)

    return StoredTensor(onnx_dtype(initializer.data_type), tuple(initializer.dims), read)


def onnx_dtype(code: int) -> str:
    """Returns the name of an ONNX element type, as torch names it."""
    import onnx

    name = onnx.TensorProto.DataType.Name(code).lower()
    return {"float": "float32", "double": "float64"}.get(name, str(name))


def compare_weights(
    artifact: str, before: Mapping[str, StoredTensor], after: Mapping[str, StoredTensor]
) -> WeightsDiff:
    """Pairs tensors by name, and the rest by content: those have only a new name."""
    marks = [{name: _mark(tensor) for name, tensor in side.items()} for side in (before, after)]
    left, right = dict(before), dict(after)
    equal = renamed = 0
    for name in before:
        if name in right and marks[0][name] == marks[1][name]:
            del left[name], right[name]
            equal += 1
    for name in list(left):
        new_name = next((other for other in right if marks[1][other] == marks[0][name]), None)
        if new_name is not None:
            del left[name], right[new_name]
            equal += 1
            # The numbers of constants are not names.
            renamed += not (name.startswith(_CONSTANT) and new_name.startswith(_CONSTANT))
    changed = [
        _difference(name, left.pop(name), right.pop(name)) for name in list(left) if name in right
    ]
    changed.sort(key=lambda change: -change.share)
    return WeightsDiff(artifact, equal, renamed, tuple(changed), tuple(left), tuple(right))


def report_weights(diff: WeightsDiff, findings: Findings) -> None:
    """Adds the findings of an artifact's weights."""
    section = findings.section("weights", diff.artifact)
    total = diff.equal + len(diff.changed)
    if diff.changed:
        first = diff.changed[0]
        same = [change for change in diff.changed if change.before == change.after]
        after = f"{len(diff.changed)} differ"
        if same:
            first = same[0]
            after += (
                f"; furthest {first.name}: {first.differing} of {first.elements} elements, by up to"
                f" {number(first.max_abs)} ({first.share:.2g} of its largest)"
            )
        else:
            after += f"; {first.name} was {first.before}, is {first.after}"
        section.change("tensors", (total, after), "changed")
    section.lists("tensors gone", "tensors added", diff.removed, diff.added)
    text = f"{diff.equal} of {counted(total + len(diff.removed), 'tensor')} equal bit for bit"
    if diff:
        text = f"equal: {counted(diff.equal, 'tensor')}, bit for bit"
    for word, names in (("gone", diff.removed), ("added", diff.added)):
        text += f"; {len(names)} {word}" if names else ""
    if diff.renamed:
        text += f"; {diff.renamed} under another name"
    section.result(text)


def _mark(tensor: StoredTensor) -> tuple[str, bytes]:
    """Returns the dtype, shape and digest of the bytes, which are equal for equal tensors."""
    digest = hashlib.sha256()
    values = tensor.read().contiguous().reshape(-1)
    for chunk in torch.split(values, _CHUNK):
        digest.update(chunk.view(torch.uint8).numpy().tobytes() if chunk.numel() else b"")
    return tensor.text, digest.digest()


def _difference(name: str, before: StoredTensor, after: StoredTensor) -> TensorChange:
    change = TensorChange(name, before.text, after.text, before.elements, before.elements)
    if before.text != after.text:
        return change
    left, right = (side.read().contiguous().reshape(-1) for side in (before, after))
    wide = torch.complex128 if left.is_complex() else torch.float64
    differing, furthest, largest = 0, 0.0, 0.0
    chunks = zip(torch.split(left, _CHUNK), torch.split(right, _CHUNK), strict=True)
    for a, b in ((old.to(wide), new.to(wide)) for old, new in chunks):
        unequal = (a != b) & ~(a.isnan() & b.isnan())
        differing += int(unequal.sum())
        gaps = (a - b).abs()[unequal]
        if gaps.numel():
            furthest = max(furthest, float(gaps.nan_to_num(float("inf")).max()))
        finite = a[a.isfinite()].abs()
        largest = max(largest, float(finite.max()) if finite.numel() else 0.0)
    return replace(change, differing=differing, max_abs=furthest, largest=largest)
