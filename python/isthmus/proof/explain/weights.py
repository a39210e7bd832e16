"""Finds weights of an artifact that are not the model's."""

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
    """Returns the weights that an artifact shows, by the model's names.

    Args:
        bundle: The bundle, already scanned.
        name: The name of the artifact.
        native: Whether native code may run; without it an AOTInductor package shows no weights.
    """
    artifact = bundle.artifact(name)
    if artifact.format == "torchscript":
        import io

        loaded: Any = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(bundle.read(artifact.files[0])), map_location="cpu"
        )
        weights = dict(loaded.state_dict())
    elif artifact.format == "onnx":
        weights = _initializers(bundle.path / artifact.files[0].path)
    elif native:
        from isthmus.proof.explain.weight_ablation import open_package

        with open_package(bundle, name) as package:
            weights = {} if package is None else dict(package.weights)
    else:
        weights = {}
    return {
        key.removeprefix("holder.").removeprefix("module."): value for key, value in weights.items()
    }


def _initializers(file: Path) -> dict[str, Tensor]:
    import onnx
    from onnx import numpy_helper

    model: Any = onnx.load(str(file))
    return {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def differing_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Maps the path of each parameter or buffer that is not the model's to a sentence about it."""
    sentences = {}
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
        sentences[name] = (
            f"{int(unequal.sum())} of {here.numel()} elements of {name} are not the model's; the "
            f"furthest is {float(there.flatten()[at]):.6g} and should be "
            f"{float(here.flatten()[at]):.6g}"
        )
    return sentences
