"""The bundle that every contender runs, and its inputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bert import MODEL_VARIABLE, make_model
from hf_models import IDS, make
from peers.kinds import INPUTS, Shape
from shared import kept_bundle

import isthmus
from isthmus.bundle.bundle import Bundle

FORMATS = ("torchscript", "aoti")


def inputs_of(shape: Shape, *, padded: bool = False) -> dict[str, torch.Tensor]:
    """Returns int64[batch, sequence] each; `padded` masks the last tokens of every row."""
    generator = torch.Generator().manual_seed(shape.batch * 1000 + shape.sequence)
    size = (shape.batch, shape.sequence)
    mask = torch.ones(size, dtype=torch.int64)
    if padded:
        mask[:, -2:] = 0
    ids = torch.randint(1000, 20000, size, generator=generator)
    return dict(zip(INPUTS, (ids, mask, torch.zeros_like(mask)), strict=True))


def save_inputs(path: Path, shape: Shape) -> Path:
    """Writes the inputs for Python and `isthmus-run`."""
    np.savez(path, **{name: value.numpy() for name, value in inputs_of(shape).items()})
    return path


def small_model(folder: Path) -> None:
    """Lets `bert.make_model` return two small layers, for a run that only shows that it works."""
    path = folder / "small-bert"
    if not path.exists():
        make(
            "BertModel", num_hidden_layers=2, hidden_size=64, num_attention_heads=4,
            intermediate_size=128,
        ).save_pretrained(path)  # fmt: skip
    os.environ[MODEL_VARIABLE] = str(path.resolve())


def prepare(
    folder: Path, shapes: Sequence[Shape], device: str, precision: str, formats: Sequence[str]
) -> Bundle:
    """Returns the bundle in `folder` with a golden of every shape, exported by this torch."""
    model = "small" if os.environ.get(MODEL_VARIABLE, "").endswith("small-bert") else "base"
    path = folder / f"bert-{model}-{device.partition(':')[0]}-{precision}"
    wanted = [{"batch": shape.batch, "sequence": shape.sequence} for shape in shapes]

    def fits(bundle: Bundle) -> bool:
        sizes = [dict(golden.dims) for golden in bundle.manifest.goldens]
        names = {artifact.format for artifact in bundle.manifest.artifacts}
        return all(dims in sizes for dims in wanted) and names >= set(formats)

    if bundle := kept_bundle(path, fits):
        return bundle
    example = inputs_of(Shape(2, 14), padded=True)
    return isthmus.export(
        make_model(),
        kwargs=example,
        path=path,
        name=path.name,
        formats=formats,
        device=device,
        precision=precision,
        dynamic=dict.fromkeys(example, IDS),
        dims={
            "batch": (1, max(2, *(shape.batch for shape in shapes))),
            "sequence": (1, max(16, *(shape.sequence for shape in shapes))),
        },
        probes=[inputs_of(shape) for shape in shapes],
        isa="native",
        overwrite=True,
        progress=lambda line: print(f"  {line}", file=sys.stderr),
    )
