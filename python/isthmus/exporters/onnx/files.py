"""ONNX files: checked, written with large weights beside them, and told of in the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isthmus.bundle.manifest import Artifact, Hazard, Method
from isthmus.errors import Decision
from isthmus.exporters.export_request import ExportRequest

if TYPE_CHECKING:
    import onnx

__all__ = ["EXTERNAL_BYTES", "artifact_of", "save_model", "stems", "with_data"]

EXTERNAL_BYTES = 16 << 20
"""Weights beyond this go to a file of their own, which runtimes map instead of copying."""
_SMALLEST = 1024
"""Bytes from which an initializer is worth moving."""
_ALIGNMENT = 64
_LARGEST = (2 << 30) - 1
"""A protocol buffer, hence an .onnx file, is no larger."""


def stems(subject: ExportRequest, name: str) -> Iterator[tuple[Method, str]]:
    """Each method with the name of its file; the first has the artifact's own."""
    for index, method in enumerate(subject.methods):
        yield method, name if index == 0 else f"{name}.{method.name}"


def save_model(model: onnx.ModelProto, folder: Path, stem: str) -> Path:
    """Checks the model and writes it, large weights beside it.

    Raises:
        onnx.checker.ValidationError: It is no valid ONNX.
    """
    import onnx

    path = folder / f"{stem}.onnx"
    for old in folder.glob(f"{stem}.onnx*"):
        old.unlink()
    if _weight_bytes(model) > EXTERNAL_BYTES:
        _move_weights(model, path.with_name(f"{path.name}.data"))
    onnx.save_model(model, path)
    onnx.checker.check_model(path)
    if path.stat().st_size < _LARGEST:
        onnx.shape_inference.infer_shapes(
            onnx.load(path, load_external_data=False), check_type=True, data_prop=False
        )
    return path


def _move_weights(model: onnx.ModelProto, data: Path) -> None:
    """Moves the large initializers to a file beside the model, aligned so that they can be mapped.

    Not by `onnx.save_model`, which minds a file of that name in the working directory.
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


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(one.raw_data) for one in model.graph.initializer)


def with_data(files: Sequence[Path]) -> tuple[Path, ...]:
    """The models, and after them the weights that lie beside them."""
    data = [file.with_name(f"{file.name}.data") for file in files]
    return (*files, *(one for one in data if one.exists()))


def artifact_of(
    subject: ExportRequest, name: str, files: Sequence[Path], decisions: Sequence[Decision]
) -> Artifact:
    """What the manifest says of these files; the first way that was accepted made them."""
    import onnx

    models = [onnx.load(file, load_external_data=False) for file in files]
    first = models[0]
    opsets = {one.domain or "ai.onnx": one.version for one in first.opset_import}
    operators: dict[str, int] = {}
    for model in models:
        for label in _operators(model):
            operators[label] = operators.get(label, 0) + 1
    used = next(decision for decision in decisions if decision.accepted)
    refused = [decision for decision in decisions if not decision.accepted]
    hazards = tuple(
        Hazard(
            "fallback",
            "info",
            f"ONNX was made by way of {used.strategy}, for {one.strategy} gave none: {one.reason}",
            one.where,
        )
        for one in refused
    )
    return Artifact(
        name=name,
        format="onnx",
        device="cpu",
        devices=("cpu", "cuda"),
        precision=subject.precision,
        trust="graph",
        convention="flat",
        strategy=used.strategy,
        files=(),
        requires={
            "torch": str(torch.__version__),
            "onnx_opset": str(opsets.get("ai.onnx", 0)),
            "onnx_ir": str(first.ir_version),
        },
        operators=operators,
        tolerances=dict(subject.tolerances),
        decisions=tuple(decisions),
        hazards=hazards,
    )


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            yield f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
