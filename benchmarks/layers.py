"""Does explain name the layer with the fault? A fault in every layer of four models.

Artifacts of a faulty copy replace those of the right model's bundle, past every check; explain then
has to say where each engine leaves the model.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faults import MODELS, Pooled, TanhGelu, bert, text
from hf_models import Example, make
from planting import export, plant
from shared import Result, engine_pairs, run
from torch import Tensor, nn

from isthmus.proof.explain import explain

NAMES = ("BERT-12", "GPT-2", "ViT", "ResNet-18")
LARGE = "BERT-base"
"""A model that takes an hour and runs only when it is named."""


def drop_bias(block: nn.Module) -> None:
    """Sets the bias of the last layer that has one to zero."""
    layers = [
        module for module in block.modules() if isinstance(getattr(module, "bias", None), Tensor)
    ]
    nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]


def change_weights(block: nn.Module) -> None:
    """Scales the first weights by 1.001."""
    next(parameter for parameter in block.parameters() if parameter.dim() > 1).data.mul_(1.001)


def swap_channels(block: nn.Module) -> None:
    """Swaps the first two rows of the first weights."""
    weight = next(parameter for parameter in block.parameters() if parameter.dim() > 1).data
    weight[[0, 1]] = weight[[1, 0]]


def approximate(block: nn.Module) -> None:
    """Approximates the activation; a block without one gets another epsilon in its norm."""
    for parent in block.modules():
        for name, named_child in list(parent.named_children()):
            if "GELU" in type(named_child).__name__:
                setattr(parent, name, TanhGelu())
                return
    for module in block.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-3
            return


MISTAKES: dict[str, Callable[[nn.Module], None]] = {
    "a dropped bias": drop_bias,
    "weights 0.1 % larger": change_weights,
    "swapped channels": swap_channels,
    "an approximated activation, or another epsilon": approximate,
}


def bert12(seed: int = 0) -> Example:
    """Returns a BERT of 12 layers."""
    return bert(seed, layers=12)


def bert_base(seed: int = 0) -> Example:
    """Returns BERT-base, with its 12 layers at full size and random weights."""
    return text(Pooled(make("BertModel", seed, random_biases=True)), 30000, 64)


def measure(options: argparse.Namespace) -> Result:
    """Plants a mistake into each layer of each model and asks explain for it."""
    rows: list[dict[str, Any]] = []
    formats = options.formats.split(",")
    models = {"BERT-12": bert12, **{name: MODELS[name] for name in NAMES[1:]}}
    chosen = options.models.split(",") if options.models else list(models)
    models[LARGE] = bert_base
    for name in chosen:
        example = models[name](0)
        holder = next(
            (path, submodule)
            for path, submodule in example.module.named_modules()
            if isinstance(submodule, nn.ModuleList) and len(submodule) > 1
        )
        path, blocks = holder
        with tempfile.TemporaryDirectory(prefix="isthmus-layers-") as text:
            folder = Path(text)
            bundle = export(example, folder / "right", formats)
            for at in range(len(blocks)):
                what = list(MISTAKES)[at % len(MISTAKES)]
                faulty = copy.deepcopy(example.module)
                with torch.no_grad():
                    MISTAKES[what](faulty.get_submodule(f"{path}.{at}"))
                wrong, failed = plant(bundle, example, faulty.eval(), folder / "bad", folder)
                for format, engine in engine_pairs(formats):
                    if format in failed:
                        raise SystemExit(f"{format} of {name} cannot be planted: {failed[format]}")
                    start = time.perf_counter()
                    report = explain(wrong, example.module, engine=engine, trust="native")
                    seconds = time.perf_counter() - start
                    named = report.culprit.path if report.culprit is not None else ""
                    right = f"{named}.".startswith(f"{path}.{at}.")
                    row = {
                        "fault": f"{name}, layer {at}: {what}", "engine": engine, "named": named,
                        "right": right, "seconds": seconds,
                    }  # fmt: skip
                    rows.append(row)
                    print(
                        f"{row['fault']} | {engine} | {named} | {seconds:.1f} s"
                        f"{'' if right else '  <-- WRONG'}",
                        file=sys.stderr,
                    )
    hits = sum(row["right"] for row in rows)
    slowest = max(row["seconds"] for row in rows)
    return Result(
        name="layers",
        columns=("fault", "engine", "named", "seconds"),
        rows=tuple(rows),
        claim=(
            f"the layer with the fault is named in {hits} of {len(rows)} cases (wanted: 95 %), "
            f"in {slowest:.0f} s at most (wanted: 600)"
        ),
        passed=hits >= 0.95 * len(rows) and slowest < 600,
        facts={"formats": ", ".join(formats)},
    )


def _options(parser: argparse.ArgumentParser) -> None:
    known = ", ".join((*NAMES, LARGE))
    parser.add_argument("--models", default="", help=f"comma-separated, of {known}")
    parser.add_argument("--formats", default="torchscript,onnx,aoti")


if __name__ == "__main__":
    raise SystemExit(run(__doc__ or "", measure, _options))
