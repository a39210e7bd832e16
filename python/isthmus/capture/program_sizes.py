"""What a program says of the sizes of its outputs, whatever any call gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isthmus.bundle.manifest import Method, Size
from isthmus.capture.data_sizes import computed_axes
from isthmus.capture.file_module import FileModule
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.symbolic_sizes import symbolic_sizes

__all__ = ["ProgramSizes", "program_sizes"]


@dataclass(frozen=True)
class ProgramSizes:
    """The sizes of a method's outputs, as far as its code tells them."""

    stated: Mapping[str, tuple[Size, ...]] = field(default_factory=dict)
    """The shape of each output by name; None stands for a size that no expression gives. Empty for
    a module that could not be followed."""
    computed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """The axes whose sizes are computed from data, by output name."""


def program_sizes(
    runner: ModuleRunner,
    method: Method,
    examples: Sequence[Mapping[str, Any]],
    axes: Mapping[str, Mapping[int, str]],
) -> ProgramSizes:
    """Returns what the code of a method says of the sizes of its outputs.

    Args:
        runner: The runner of the module.
        method: One of the module's methods.
        examples: Example calls; in the first no dynamic size is 0 or 1, and no two are equal.
        axes: The dynamic axes by input name.
    """
    if isinstance(runner.module, FileModule):
        return ProgramSizes(computed=runner.module.computed_sizes)
    stated = symbolic_sizes(runner, method, examples[0], axes)
    if stated is not None:
        return ProgramSizes(stated=stated)
    return ProgramSizes(computed=computed_axes(runner, method, examples))
