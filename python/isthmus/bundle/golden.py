"""A golden: a stored probe with the outputs of the untouched module."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import written_name
from isthmus.bundle.size_expression import bind_sizes

if TYPE_CHECKING:
    from torch import Tensor

    from isthmus.bundle.manifest import Method, Size

__all__ = ["Golden", "Step", "named_sizes", "with_written"]


@dataclass(frozen=True)
class Step:
    """One call of a golden."""

    method: str
    inputs: dict[str, Tensor]
    """The inputs by name, on the CPU; scalars are 0-d tensors; absent inputs have no entry."""
    outputs: dict[str, Tensor]
    """The results by name (`Method.results`), likewise; no two share memory."""
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


def with_written(method: Method, step: Step) -> Step:
    """Returns a step with an output for each input that the method may write.

    An input that this call left as it was has its own value there.
    """
    unchanged = {
        written_name(name): step.inputs[name] for name in method.writes if name in step.inputs
    }
    return replace(step, outputs={**unchanged, **step.outputs}) if unchanged else step


def named_sizes(method: Method, step: Step) -> dict[str, int]:
    """Returns the sizes of the named dimensions of a call; absent inputs have none."""
    axes: list[tuple[Size, int]] = []
    for spec in method.inputs:
        value = step.inputs.get(spec.name)
        if value is not None and spec.shape is not None and len(spec.shape) == value.dim():
            axes += zip(spec.shape, value.shape, strict=True)
    return bind_sizes(axes)
