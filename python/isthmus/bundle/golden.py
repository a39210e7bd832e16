"""A golden: a stored probe with the answers of the untouched module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Golden", "Step"]


@dataclass(frozen=True)
class Step:
    """One call of a golden."""

    method: str
    inputs: dict[str, Tensor]
    """By name, on the CPU; scalars as 0-d tensors; absent ones have no entry."""
    outputs: dict[str, Tensor]
    """The same; no two share memory."""
    errors: dict[str, Tensor] = field(default_factory=dict)
    """How far an output is from eager in float64, output minus truth, where that is known."""


@dataclass(frozen=True)
class Golden:
    """A probe: calls from the state as handed in, and the answers of the untouched module."""

    name: str
    dims: dict[str, int]
    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(
            value.numel() * value.element_size()
            for step in self.steps
            for value in (*step.inputs.values(), *step.outputs.values(), *step.errors.values())
        )
