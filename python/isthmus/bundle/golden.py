"""A golden: a stored probe with the outputs of the untouched module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from isthmus.bundle.manifest import Method

__all__ = ["Golden", "Step", "named_sizes"]


@dataclass(frozen=True)
class Step:
    """One call of a golden."""

    method: str
    inputs: dict[str, Tensor]
    """The inputs by name, on the CPU; scalars are 0-d tensors; absent inputs have no entry."""
    outputs: dict[str, Tensor]
    """The outputs by name, likewise; no two share memory."""
    errors: dict[str, Tensor] = field(default_factory=dict)
    """The outputs minus eager's outputs in float64, where these are known."""


@dataclass(frozen=True)
class Golden:
    """A probe: calls from the state as handed in, and the outputs of the untouched module."""

    name: str
    dims: dict[str, int]
    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(
            value.numel() * value.element_size()
            for step in self.steps
            for value in (*step.inputs.values(), *step.outputs.values(), *step.errors.values())
        )


def named_sizes(method: Method, step: Step) -> dict[str, int]:
    """Returns the sizes of the named dimensions of a call; absent inputs have none."""
    sizes: dict[str, int] = {}
    for spec in method.inputs:
        value = step.inputs.get(spec.name)
        if value is not None and spec.shape is not None and len(spec.shape) == value.dim():
            pairs = zip(spec.shape, value.shape, strict=True)
            sizes.update((name, size) for name, size in pairs if isinstance(name, str))
    return sizes
