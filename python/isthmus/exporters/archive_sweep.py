"""Makes the calls of a sweep where only TorchScript is left: its answers are the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import Artifact, DimRange, Manifest, Method
from isthmus.bundle.size_expression import names_of
from isthmus.capture.made_values import Donor, made_values
from isthmus.exporters.check import load_bytes
from isthmus.goldens.operations import OperationCounter
from isthmus.goldens.sweep import SHAPES, Load, Price, sweep_shapes
from isthmus.runtime.call_torchscript import call_torchscript

__all__ = ["archive_sweep"]


def archive_sweep(
    manifest: Manifest,
    source: Artifact,
    archive: bytes,
    goldens: Sequence[Golden],
    axes: Mapping[str, Mapping[int, str]],
) -> list[Golden]:
    """Returns calls of each method at many more sizes than the bundle stores.

    Sizes at which the archive itself fails are left out. There are none for a stateful model and
    in reduced precision.

    Args:
        manifest: The bundle's manifest.
        source: The TorchScript artifact.
        archive: Its bytes, which the scan accepted.
        goldens: The bundle's goldens, from whose inputs the calls are made.
        axes: The dynamic axes by input name.
    """
    if manifest.stateful or source.precision != "fp32" or source.device != "cpu":
        return []
    module = load_bytes(archive, "cpu")

    def run(method: Method, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        copies = {name: value.clone() for name, value in inputs.items()}
        with torch.inference_mode():
            outputs = call_torchscript(module, method, source.convention, copies)
        return {name: value.clone() for name, value in outputs.items()}

    sweep: list[Golden] = []
    for method in manifest.methods:
        known = [golden for golden in goldens if golden.steps[0].method == method.name]
        if known:
            sweep += _of_method(method, manifest.dims, known, axes, run)
    return sweep


def _of_method(
    method: Method,
    dims: Mapping[str, DimRange],
    goldens: Sequence[Golden],
    axes: Mapping[str, Mapping[int, str]],
    run: Any,
) -> list[Golden]:
    used = {name for spec in method.inputs for size in spec.shape or () for name in names_of(size)}
    own = {name: size for name, size in dims.items() if name in used}
    smallest = min(goldens, key=lambda golden: math.prod(max(n, 1) for n in golden.dims.values()))

    def load(golden: Golden) -> Load:
        with OperationCounter() as counter:
            run(method, golden.steps[0].inputs)
        return Load(counter.operations, golden.nbytes)

    donors = [Donor(golden.steps[0].inputs, golden.dims) for golden in goldens]
    price = Price(goldens[0].dims, load(goldens[0]), smallest.dims, load(smallest))
    shapes = sweep_shapes(own, price, [golden.dims for golden in goldens], count=SHAPES)
    sweep: list[Golden] = []
    for at, shape in enumerate(shapes, start=1):
        for _, inputs in made_values(donors, method.inputs, axes, shape, seed=at):
            try:
                step = Step(method.name, inputs, run(method, inputs))
            except Exception:
                continue
            name = ", ".join(f"{dim}={size}" for dim, size in shape.items())
            sweep.append(Golden(name, shape, (step,)))
            break
    return sweep
