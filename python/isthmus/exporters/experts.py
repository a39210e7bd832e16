"""Chooses the implementation of a mixture of experts that `torch.export` can follow.

transformers multiplies the tokens of all experts in one grouped product. On the CPU an exported
program has that as an operator that is written in Python, which neither ONNX nor a compiled package
has. transformers' own implementation by batched products has the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from isthmus.bundle.manifest import Hazard

__all__ = ["experts_hazard", "exportable_experts"]

_FIELD = "_experts_implementation_internal"
_GROUPED = "grouped_mm"
_BATCHED = "batched_mm"


def _grouped_configs(module: nn.Module) -> list[Any]:
    """Returns the configurations of experts that multiply in groups, each once."""
    configs = [getattr(part, "config", None) for part in module.modules()]
    grouped = [config for config in configs if getattr(config, _FIELD, "") == _GROUPED]
    known = {id(config): config for config in grouped}
    return list(known.values()) if _has_experts(module) else []


def _has_experts(module: nn.Module) -> bool:
    """Returns True for a model with experts; every configuration of transformers has the field."""
    return any(hasattr(type(part), "_apply_gate") for part in module.modules())


@contextmanager
def exportable_experts(module: nn.Module) -> Iterator[None]:
    """Lets the experts of a module multiply in batches; restores their choice afterwards."""
    configs = _grouped_configs(module)
    for config in configs:
        setattr(config, _FIELD, _BATCHED)
    try:
        yield
    finally:
        for config in configs:
            setattr(config, _FIELD, _GROUPED)


def experts_hazard(module: nn.Module) -> tuple[Hazard, ...]:
    """Returns what an export of the module chose; nothing where it had no choice."""
    if not _grouped_configs(module):
        return ()
    return (
        Hazard(
            "experts",
            "info",
            f'the experts are exported by transformers\' implementation "{_BATCHED}", for '
            f'"{_GROUPED}" calls Python; it copies the weights of an expert for each token that it '
            "serves",
        ),
    )
