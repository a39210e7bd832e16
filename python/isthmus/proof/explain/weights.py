"""Weights of an artifact that are not the model's: the shortest way to many a fault."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["differing_weights", "weights_of"]


def weights_of(bundle: Bundle, name: str, *, native: bool) -> Mapping[str, Tensor]:
    """By the model's names: those that the artifact shows.

    Args:
        bundle: Holds it; it has been scanned.
        name: Of the artifact.
        native: Whether native code may run: an AOTInductor package is asked.
    """
    artifact = bundle.artifact(name)
    if artifact.format == "torchscript":
        import io

        loaded: Any = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(bundle.read(artifact.files[0])), map_location="cpu"
        )
        found = dict(loaded.state_dict())
    elif artifact.format == "onnx":
        found = _initializers(bundle.path / artifact.files[0].path)
    elif native:
        from isthmus.proof.explain.observe_aoti import weights_of_package

        found = dict(weights_of_package(bundle, name))
    else:
        found = {}
    return {
        key.removeprefix("holder.").removeprefix("module."): value for key, value in found.items()
    }


def _initializers(file: Path) -> dict[str, Tensor]:
    import onnx
    from onnx import numpy_helper

    model: Any = onnx.load(str(file))
    return {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy())
        for one in model.graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT
    }


def differing_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """By the path of a parameter or buffer: how the artifact's differs from the model's."""
    found = {}
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, value in own.items():
        other = weights.get(name)
        if other is None or other.shape != value.shape or other.dtype != value.dtype:
            continue
        here, there = value.detach().cpu(), other.cpu()
        if torch.equal(here, there):
            continue
        unequal = here != there
        at = int((here.double() - there.double()).abs().argmax())
        found[name] = (
            f"{int(unequal.sum())} of {here.numel()} elements of {name} are not the model's; the "
            f"furthest is {float(there.flatten()[at]):.6g} and should be "
            f"{float(here.flatten()[at]):.6g}"
        )
    return found
