"""Hugging Face models with random weights, and example calls of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

IDS = {0: "batch", 1: "sequence"}
"""The dynamic dimensions of token ids."""


@dataclass(frozen=True)
class Example:
    """A model with an example call."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    dims: Mapping[str, tuple[int, int]]

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of `isthmus.export` and `capture` that describe the call."""
        return {"kwargs": dict(self.inputs), "dynamic": self.dynamic, "dims": self.dims}


def make(name: str, seed: int = 0, *, random_biases: bool = False, **config: Any) -> nn.Module:
    """Returns a model of this class name and configuration with random weights.

    Args:
        name: A class of transformers.
        seed: Seeds the weights.
        random_biases: Draws the biases as well; transformers sets them to zero, so that a model
            without one of them would give the same answers.
        **config: The values of the configuration.
    """
    kind = getattr(transformers, name)
    torch.manual_seed(seed)
    model: nn.Module = kind(kind.config_class(use_cache=False, **config)).eval()
    if random_biases:
        with torch.no_grad():
            for key, value in model.named_parameters():
                if key.endswith("bias"):
                    value.normal_(0, 0.02)
    return model


def random_pixels(images: int, size: int) -> Tensor:
    """Returns float32[images, 3, size, size], the same at each call."""
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
