"""The bundle that every contender runs, and the inputs of each shape."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bert import MODEL_VARIABLE, make_model
from peers.kinds import Shape

import isthmus
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.errors import Error

from .contenders import INPUTS

FORMATS = ("torchscript", "aoti")


def inputs_of(shape: Shape, *, padded: bool = False) -> dict[str, torch.Tensor]:
    """int64[batch, sequence] each; with `padded` the last tokens of every row are masked."""
    generator = torch.Generator().manual_seed(shape.batch * 1000 + shape.sequence)
    size = (shape.batch, shape.sequence)
    mask = torch.ones(size, dtype=torch.int64)
    if padded:
        mask[:, -2:] = 0
    return dict(
        zip(
            INPUTS,
            (
                torch.randint(1000, 20000, size, generator=generator),
                mask,
                torch.zeros(size, dtype=torch.int64),
            ),
            strict=True,
        )
    )


def save_inputs(path: Path, shape: Shape) -> Path:
    """As a file that Python and `isthmus-run` read."""
    np.savez(path, **{name: value.numpy() for name, value in inputs_of(shape).items()})
    return path


def small_model(folder: Path) -> None:
    """Makes `bert.make_model` give two small layers: for a run that only shows that it runs."""
    from transformers import BertConfig, BertModel

    path = folder / "small-bert"
    if not path.exists():
        torch.manual_seed(0)
        config = BertConfig(
            num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128
        )
        BertModel(config).save_pretrained(path)
    os.environ[MODEL_VARIABLE] = str(path.resolve())


def prepare(
    folder: Path, shapes: Sequence[Shape], device: str, precision: str, formats: Sequence[str]
) -> Bundle:
    """The bundle in `folder`, made by this torch with a golden of every shape, else exported."""
    model = "small" if os.environ.get(MODEL_VARIABLE, "").endswith("small-bert") else "base"
    path = folder / f"bert-{model}-{device.partition(':')[0]}-{precision}"
    wanted = [{"batch": shape.batch, "sequence": shape.sequence} for shape in shapes]
    if path.exists():
        try:
            bundle = open_bundle(path)
            there = [dict(golden.dims) for golden in bundle.manifest.goldens]
            if (
                bundle.manifest.producer.get("torch") == torch.__version__
                and all(name in there for name in wanted)
                and {artifact.format for artifact in bundle.manifest.artifacts} >= set(formats)
            ):
                return bundle
        except Error as error:
            print(f"the old bundle is no good: {error}", file=sys.stderr)
    print(f"exporting to {path}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    example = inputs_of(Shape(2, 14), padded=True)
    return isthmus.export(
        make_model(),
        kwargs=example,
        path=path,
        name=path.name,
        formats=formats,
        device=device,
        precision=precision,
        dynamic={name: {0: "batch", 1: "sequence"} for name in example},
        dims={
            "batch": (1, max(2, *(shape.batch for shape in shapes))),
            "sequence": (1, max(16, *(shape.sequence for shape in shapes))),
        },
        probes=[inputs_of(shape) for shape in shapes],
        isa="native",
        overwrite=True,
        progress=lambda line: print(f"  {line}", file=sys.stderr),
    )
