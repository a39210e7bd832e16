"""Adopts an ONNX file: it is scanned, its signature is read, and it is kept as it is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from isthmus.bundle.manifest import Artifact
from isthmus.bundle.size_expression import is_plain, names_of, parse_size
from isthmus.capture.dynamic import DynamicSpec
from isthmus.errors import BundleError, Decision
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.file_notes import notes_of_file
from isthmus.exporters.onnx.onnx_file import OnnxFile
from isthmus.exporters.remedies import with_remedies

if TYPE_CHECKING:
    from isthmus import _core

__all__ = ["FileInput", "adopted_onnx", "dynamic_axes", "open_onnx"]


class FileInput(Protocol):
    """An input of a file."""

    @property
    def name(self) -> str:
        """The name by which a call gives it."""

    @property
    def shape(self) -> Sequence[int | str | None]:
        """The size of each axis; a text names one that varies, None leaves it open."""


# --- the file -------------------------------------------------------------------------------------


def open_onnx(path: Path, folder: Path) -> OnnxFile:
    """Scans an ONNX file and opens a copy of it.

    Args:
        path: The file; weights that it names have to lie beside it.
        folder: An empty folder for the copies, which the module keeps using.

    Raises:
        BundleError: The scan refuses it, weights are missing or elsewhere, ONNX Runtime cannot open
            it, or an input or output is no dense tensor.
        ImportError: onnxruntime is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError("adopting an ONNX file needs onnxruntime: pip install 'isthmus[onnx]'")
    content = path.read_bytes()
    scan = _scanned(path, content)
    for name in sorted(scan.external_files):
        _copy(_weights(path, name), folder / name)
    model = folder / "onnx-cpu-fp32.onnx"
    if model.exists():
        raise BundleError(f'{path}: its weights are in "{model.name}"; give them another name')
    model.write_bytes(content)
    return OnnxFile(model, str(path), scan)


def _scanned(path: Path, content: bytes) -> _core.OnnxScan:
    from isthmus import _core

    beside = {file.name for file in path.parent.iterdir()}
    scan = _core.scan_onnx(content, beside)
    for name in sorted(scan.external_files):
        _check_location(path, name)
    if scan.refused:
        raise BundleError(f"{path} is refused: {scan.describe()}")
    return scan


def _check_location(path: Path, name: str) -> None:
    """Refuses weights that are in no file directly beside the model.

    Raises:
        BundleError: The location has a folder, or there is no such file.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise BundleError(
            f'{path} is refused: its weights are in "{name}"; expected a file in its own folder. '
            "If you trust it, write it again with its weights beside it: "
            'onnx.save_model(onnx.load("in.onnx"), "out.onnx", save_as_external_data=True)'
        )
    if not path.with_name(name).is_file():
        raise BundleError(
            f'{path}: its weights are in "{name}", and there is no such file beside it: put it '
            "there"
        )


def _weights(path: Path, name: str) -> Path:
    """Returns the real file of weights; a link may lead to where the model's own link leads.

    Raises:
        BundleError: The file is a link that leads elsewhere.
    """
    real = path.with_name(name).resolve()
    if real.parent not in (path.parent.resolve(), path.resolve().parent):
        raise BundleError(
            f'{path} is refused: its weights "{name}" are a symbolic link to {real}; put the file '
            "itself beside the model"
        )
    return real


def _copy(source: Path, target: Path) -> None:
    """Makes a hard link where the file system allows it, for weights may be large; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# --- the call -------------------------------------------------------------------------------------


def dynamic_axes(
    inputs: Sequence[FileInput], given: DynamicSpec | None
) -> dict[str, dict[int, str]]:
    """Returns the dynamic axes: those that the caller names, and those that the file leaves open.

    A symbolic dimension keeps its name, or the nearest that is a name; sums such as "past +
    sequence" stay what they are. An open dimension without a name is called after its input and
    axis, such as "x_0", where the caller names no axis of that input; else it keeps the example's
    size.

    Args:
        inputs: The file's inputs.
        given: The caller's names by input and axis, which count first.
    """
    axes = {name: dict(entry) for name, entry in (given or {}).items()}
    symbols = [size for value in inputs for size in value.shape if isinstance(size, str)]
    names = _dim_names(dict.fromkeys(symbols), _given_names(axes))
    for value in inputs:
        own = axes.get(value.name, {})
        named = {axis % len(value.shape) for axis in own if value.shape}
        for axis, size in enumerate(value.shape):
            if isinstance(size, int) or axis in named:
                continue
            name = names.get(size or "", "")
            if not name and not named:
                name = re.sub(r"\W", "_", f"{value.name}_{axis}", flags=re.ASCII)
                name = name if is_plain(name) else f"_{name}"
            if name:
                axes.setdefault(value.name, {})[axis] = name
    return axes


def _given_names(axes: DynamicSpec) -> set[str]:
    names: set[str] = set()
    for entry in axes.values():
        for size in entry.values():
            try:
                names |= set(names_of(size))
            except ValueError:  # `isthmus.capture.dynamic` says what is wrong with it
                continue
    return names


def _dim_names(symbols: Collection[str], taken: set[str]) -> dict[str, str]:
    """Returns the name or the expression for each symbol; "?" and the like have none."""
    plain = {symbol for symbol in symbols if is_plain(symbol)}
    used = set(taken) | plain
    names: dict[str, str] = {}
    for symbol in symbols:
        if symbol in plain or _is_expression(symbol, plain):
            names[symbol] = symbol
            continue
        name = re.sub(r"\W+", "_", symbol, flags=re.ASCII).strip("_")
        if not name:
            continue
        base = name = name if is_plain(name) else f"_{name}"
        count = 1
        while name in used:
            count += 1
            name = f"{base}_{count}"
        used.add(name)
        names[symbol] = name
    return names


def _is_expression(symbol: str, plain: set[str]) -> bool:
    """Returns True for a sum of dimensions that are axes of their own."""
    try:
        size = parse_size(symbol)
    except ValueError:
        return False
    return bool(size.names) and set(size.names) <= plain


# --- the artifact ---------------------------------------------------------------------------------


def adopted_onnx(model: OnnxFile, request: ExportRequest) -> ExportedArtifact:
    """Returns the file as an artifact, with what the manifest says of it."""
    scan = model.scan
    data = [model.file.with_name(name) for name in sorted(scan.external_files)]
    reason = f"the file as it is; its own answers, by {model.reference}, are the reference"
    artifact = Artifact(
        name=model.file.stem,
        format="onnx",
        device="cpu",
        devices=("cpu", "cuda"),
        precision=request.precision,
        trust="graph",
        convention="flat",
        strategy="adopted",
        files=(),
        requires={"onnx_opset": str(scan.opsets.get("", 0)), "onnx_ir": str(scan.ir_version)},
        operators=dict(scan.operators),
        tolerances=dict(request.tolerances),
        decisions=(Decision("adopted", True, reason),),
        hazards=with_remedies(notes_of_file(model, request.notes)),
    )
    return ExportedArtifact(artifact, (model.file, *data))
