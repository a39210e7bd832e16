"""Models, bundles and manifests that the tests of diff compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import torch
from torch import Tensor, nn

import isthmus
from isthmus import bundle_diff
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import Artifact, DimRange, FileEntry, Manifest, Method, Tree, ValueSpec
from isthmus.bundle_diff.findings import Findings, Severity
from isthmus.bundle_diff.report import DiffReport
from isthmus.document import to_json

SCHEMA = json.loads(Path(bundle_diff.__file__).with_name("diff.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


class Net(nn.Module):
    """A float output, judged by its noise, and an integer output, which has to be equal."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(4, 64)
        self.act = nn.GELU(approximate=approximate)
        self.down = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.down(self.act(self.up(x)))
        return {"scores": scores, "best": scores.argmax(-1)}


class Renamed(Net):
    def forward(self, rows: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        scores = self.down(self.act(self.up(rows)))
        return {"logits": scores, "best": scores.argmax(-1), "sums": rows.sum(-1)}


class Wide(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.float())


def export_net(
    path: Path,
    module: nn.Module,
    *,
    rows: tuple[int, int] = (1, 40),
    argument: str = "x",
    dtype: torch.dtype = torch.float32,
    formats: tuple[str, ...] = ("torchscript",),
) -> Bundle:
    """Exports a module of this file; the inputs are the same each time."""
    torch.manual_seed(1)
    return isthmus.export(
        module.eval(),
        (torch.randn(6, 4).to(dtype),),
        path=path,
        dynamic={argument: {0: "batch"}},
        dims={"batch": rows},
        formats=formats,
    )


def severities(report: DiffReport | Findings, area: str = "") -> dict[str, Severity]:
    return {change.what: change.severity for change in report.changes if area in ("", change.area)}


def validated(report: DiffReport) -> Any:
    document = json.loads(to_json(report))
    VALIDATOR.validate(document)
    return document


def leaf(name: str) -> Tree:
    return Tree("leaf", name)


def value(name: str, *shape: int | str | None, dtype: str = "float32", **more: Any) -> ValueSpec:
    return ValueSpec(name, "tensor", dtype, tuple(shape), **more)


ROWS = (value("x", "batch", 3), value("y", "batch", 3, optional=True))
SCORES = (value("scores", "batch", 8),)
DIMS = {"batch": DimRange(1, 8), "other": DimRange(1, 8)}
FILE = FileEntry("artifacts/a.pt", 1000, "0" * 64)
ARTIFACT = Artifact(
    "a", "torchscript", "cpu", ("cpu",), "fp32", "graph", "flat", "trace", (FILE,), {}
)


def method(
    inputs: tuple[ValueSpec, ...] = ROWS,
    outputs: tuple[ValueSpec, ...] = SCORES,
    returns: Tree | None = None,
    order: tuple[str, ...] = (),
) -> Method:
    names = order or tuple(input_spec.name for input_spec in inputs)
    result = returns or Tree(
        "dict",
        keys=tuple(output.name for output in outputs),
        items=tuple(leaf(output.name) for output in outputs),
    )
    return Method("forward", inputs, outputs, tuple(leaf(name) for name in names), (), result)


def bundle_of(*methods: Method, dims: dict[str, DimRange] | None = None, **more: Any) -> Manifest:
    known = dims or DIMS
    return Manifest("m", "", {}, {}, False, known, methods, (), (), {}, **more)
