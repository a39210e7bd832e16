"""ONNX files: written with large weights beside them, checked, and described for the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isthmus.bundle.manifest import Artifact
from isthmus.exporters.attempts import Verified, fallback_hazards
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.remedies import with_remedies

if TYPE_CHECKING:
    import onnx

__all__ = ["EXTERNAL_BYTES", "artifact_of", "save_model", "with_data"]

EXTERNAL_BYTES = 16 << 20
"""Weights beyond this size go to a file of their own, which runtimes map instead of copying."""
_SMALLEST = 1024
"""The bytes from which an initializer is moved there."""
_ALIGNMENT = 64
_LARGEST = (2 << 30) - 1
"""The largest size of a protocol buffer, hence of an .onnx file."""


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks a model and writes it, with large weights in a file beside it.

    Raises:
        onnx.checker.ValidationError: The model is not valid ONNX.
    """
    import onnx

    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_BYTES:
        _move_weights(model, path.with_name(f"{path.name}.data"))
    onnx.save_model(model, path)
    onnx.checker.check_model(path)
    if path.stat().st_size < _LARGEST:
        onnx.shape_inference.infer_shapes(
            onnx.load(path, load_external_data=False), check_type=True, data_prop=False
        )


def _move_weights(model: onnx.ModelProto, data: Path) -> None:
    """Moves the large initializers to a file beside the model, aligned so that they can be mapped.

    `onnx.save_model` could do that too, but minds a file of that name in the working directory.
    """
    from onnx.external_data_helper import set_external_data

    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            size = len(tensor.raw_data)
            if size < _SMALLEST:
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            set_external_data(tensor, data.name, file.tell(), size)
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")


def with_data(files: Sequence[Path]) -> tuple[Path, ...]:
    """Returns the models, and after them the weights that lie beside them."""
    data = [file.with_name(f"{file.name}.data") for file in files]
    return (*files, *(file for file in data if file.exists()))


def artifact_of(
    request: ExportRequest, name: str, files: Sequence[Path], verified: Verified
) -> Artifact:
    """Returns what the manifest says of the methods' files."""
    import onnx

    models = [onnx.load(file, load_external_data=False) for file in files]
    first = models[0]
    opsets = {entry.domain or "ai.onnx": entry.version for entry in first.opset_import}
    operators = Counter(label for model in models for label in _operators(model))
    return Artifact(
        name=name,
        format="onnx",
        device="cpu",
        devices=("cpu", "cuda"),
        precision=request.precision,
        trust="graph",
        convention="flat",
        strategy=verified.decisions[-1].strategy,
        files=(),
        requires={
            "torch": str(torch.__version__),
            "onnx_opset": str(opsets.get("ai.onnx", 0)),
            "onnx_ir": str(first.ir_version),
        },
        operators=dict(operators),
        tolerances=dict(request.tolerances),
        sizes=verified.sizes,
        decisions=verified.decisions,
        hazards=with_remedies(fallback_hazards("ONNX", verified)),
    )


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    """Yields the operator of every node, those of subgraphs last."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            yield f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
