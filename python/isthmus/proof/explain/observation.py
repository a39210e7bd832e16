"""The observed intermediate outputs of an artifact, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.proof.explain.layers import Values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Observation", "read", "write"]

_TENSORS, _FACTS = "observed.safetensors", "observed.json"


@dataclass
class Observation:
    """The observed intermediate outputs of an artifact in one call."""

    values: dict[str, Values] = field(default_factory=dict)
    """Maps a submodule's path to its values; paths that the artifact does not show are missing."""
    lines: dict[str, str] = field(default_factory=dict)
    """Maps a submodule's path to the file:line of its last operator, if the artifact names it."""


def write(observation: Observation, folder: Path) -> None:
    """Writes the tensors as one safetensors file and the rest as JSON."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    counts: dict[str, tuple[int, int]] = {}
    for index, (path, values) in enumerate(observation.values.items()):
        counts[path] = len(values.inputs), len(values.outputs)
        for side, several in (("in", values.inputs), ("out", values.outputs)):
            for at, value in enumerate(several):
                tensors[f"{index}/{side}/{at}"] = value.contiguous().clone()
    save_file(tensors, folder / _TENSORS)
    facts = {"counts": counts, "lines": observation.lines}
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


def read(folder: Path) -> Observation:
    """Reads what `write` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(folder / _TENSORS)
    facts: Mapping[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))

    def side(index: int, name: str, count: int) -> tuple[Tensor, ...]:
        return tuple(tensors[f"{index}/{name}/{at}"] for at in range(count))

    return Observation(
        values={
            path: Values(side(index, "in", inputs), side(index, "out", outputs))
            for index, (path, (inputs, outputs)) in enumerate(facts["counts"].items())
        },
        lines=facts["lines"],
    )
