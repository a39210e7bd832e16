"""Probes the edges of integer inputs: values that eager refuses, which an engine might answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from isthmus.bundle.manifest import Hazard, Method, ValueRange, ValueSpec
from isthmus.bundle.size_expression import parse_size
from isthmus.capture.capture import Captured
from isthmus.capture.file_module import FileModule
from isthmus.capture.made_values import Donor, bounds_of
from isthmus.capture.resize import is_mask
from isthmus.capture.run_module import ModuleRunner
from isthmus.errors import ExportError
from isthmus.exporters.subprocess_export import can_isolate, isolated
from isthmus.goldens.apart import limit_memory

__all__ = ["with_edges"]

_SECONDS = 120.0
"""The time that the probes may take before they are given up."""
_FAR = 1009
"""How far beyond the sizes a value is that no size explains."""
_LARGEST = 2**31 - 1
"""The largest number, and with a sign the smallest, among which edges are searched for."""


@dataclass(frozen=True)
class _Edges:
    """What eager says of an input's values."""

    allowed: ValueRange | None = None
    """The range outside of which eager refuses; None where none can be told."""
    refused: tuple[int, ...] = ()
    """Values that eager refuses, at some places at least, though no range says so."""


def with_edges(captured: Captured) -> Captured:
    """Adds ranges to integer inputs whose edges eager itself tells, with notes on what it refuses.

    Each input without a range gets -1, 0, 1, sizes of dimensions and values far beyond, at its
    first, middle and last place and at all places, at two sets of sizes. Where eager accepts a
    value and refuses the next one everywhere, that is the edge of a range: lengths from 1 to
    "time". Inputs whose range follows from a dimension, such as offsets, get the ends of that
    range, which eager may refuse at some places. Eager may end the process on such values, so this
    runs in a forked one. The code of a file is not seen: the edges of its inputs are searched for
    among all numbers, because they may index a table.

    Args:
        captured: A captured module, on the CPU.
    """
    asked = {
        method.name: [
            spec.name for spec in method.inputs if _may_have_edges(captured, method, spec)
        ]
        for method in captured.methods
    }
    if not any(asked.values()) or not can_isolate():
        return captured

    def work(_: Callable[[str], None]) -> dict[tuple[str, str], _Edges]:
        if isinstance(captured.module, FileModule):
            _ = captured.module.opened  # opening it takes memory, and is no probe
        limit_memory()  # such a number may be a size
        with ModuleRunner(captured.module) as runner:
            return {
                (method.name, name): _Prober(captured, runner, method, name).edges()
                for method in captured.methods
                for name in asked[method.name]
            }

    try:
        found = isolated(work, seconds=_SECONDS, progress=lambda _: None)
    except ExportError as error:
        names = ", ".join(dict.fromkeys(name for listed in asked.values() for name in listed))
        note = Hazard(
            "eager_refuses",
            "warning",
            f"eager ended its process on integers beyond the example's in {names} ({error}); the "
            "signature has no range for them: check them before the call",
        )
        return replace(captured, notes=(*captured.notes, note))
    methods = tuple(
        replace(
            method,
            inputs=tuple(
                replace(spec, values=found[method.name, spec.name].allowed)
                if (method.name, spec.name) in found
                else spec
                for spec in method.inputs
            ),
        )
        for method in captured.methods
    )
    notes = [
        Hazard(
            "eager_refuses",
            "warning",
            f"eager refuses {' and '.join(map(str, edges.refused))} in {name}, at some places at "
            "least, and no range of the signature says so, so an engine may answer there",
        )
        for (_, name), edges in found.items()
        if edges.refused
    ]
    return replace(captured, methods=methods, notes=(*captured.notes, *notes))


def _may_have_edges(captured: Captured, method: Method, spec: ValueSpec) -> bool:
    value = captured.given[method.name].get(spec.name)
    return (
        (spec.values is None or isinstance(spec.values.max, str))
        and spec.name not in method.writes
        and isinstance(value, Tensor)
        and value.dtype in (torch.int64, torch.int32, torch.int16)
        and value.device.type == "cpu"
        and value.numel() > 0
        and (not is_mask(value) or isinstance(captured.module, FileModule))
    )


@dataclass
class _Prober:
    captured: Captured
    runner: ModuleRunner
    method: Method
    name: str
    answers: dict[tuple[int, int], bool | None] = field(default_factory=dict)
    """Whether eager accepts a value, by the number of the real call; None where it depends on the
    place."""

    @property
    def donors(self) -> Sequence[Donor]:
        captured, name = self.captured, self.method.name
        given = Donor(captured.given[name], captured.given_sizes)
        return [given, Donor(captured.examples[name], captured.sizes)]

    def edges(self) -> _Edges:
        (spec,) = [spec for spec in self.method.inputs if spec.name == self.name]
        if spec.values is not None:
            ends = zip(*(bounds_of(spec.values, donor.sizes) for donor in self.donors), strict=True)
            inside = tuple(values[0] for values in ends if not self._all(True, values))
            return _Edges(spec.values, inside)
        bounds = torch.iinfo(self.donors[0].values[self.name].dtype)
        far = [max(self._largest(at), *donor.sizes.values(), 0) * 4 + _FAR
               for at, donor in enumerate(self.donors)]  # fmt: skip
        lowest: int | None = self._lowest()
        highest: str | int | None = self._highest() if self._all(False, far) else None
        if isinstance(self.captured.module, FileModule) and self.donors[0].values[self.name].dim():
            lowest = self._searched(-1) if lowest is None else lowest
            highest = self._searched(1) if highest is None else highest
        if lowest is not None or highest is not None:
            return _Edges(
                ValueRange(
                    bounds.min if lowest is None else lowest,
                    bounds.max if highest is None else highest,
                )
            )
        tried = {-1: [-1, -1], 0: [0, 0], far[0]: far}
        return _Edges(
            refused=tuple(value for value, values in tried.items() if self._all(False, values))
        )

    def _lowest(self) -> int | None:
        """Returns the least value that eager accepts, where it refuses all below."""
        for least in (0, 1):
            if not self._all(False, [least - 1, least - 1]):
                return None
            if self._all(True, [least, least]):
                return least
        return None

    def _highest(self) -> str | None:
        """Returns the size, or one less, above which eager refuses, in both calls."""
        for dim in self.donors[0].sizes:
            for difference in (0, -1):
                values = [donor.sizes[dim] + difference for donor in self.donors]
                if self._all(True, values) and self._all(False, [value + 1 for value in values]):
                    return str(parse_size(f"{dim} - 1" if difference else dim))
        return None

    def _searched(self, sign: int) -> int | None:
        """Returns the last number that is accepted, where the file refuses what is beyond it."""
        tensors = [donor.values[self.name] for donor in self.donors]
        inside = sign * max(int((sign * tensor).max()) for tensor in tensors)
        outside = sign * min(_LARGEST, torch.iinfo(tensors[0].dtype).max)
        if not self._all(False, [outside, outside]):
            return None
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            if self._runs_everywhere(middle):
                inside = middle
            else:
                outside = middle
        edge = self._all(True, [inside, inside]) and self._all(False, [outside, outside])
        return inside if edge else None

    def _runs_everywhere(self, value: int) -> bool:
        donor = self.donors[0]
        return self.runner.accepts(
            self.method,
            {**donor.values, self.name: torch.full_like(donor.values[self.name], value)},
        )

    def _largest(self, at: int) -> int:
        return int(self.donors[at].values[self.name].max())

    def _all(self, accepted: bool, values: Sequence[int]) -> bool:
        """Returns True when eager accepts, or refuses, a value everywhere in each of the calls."""
        return all(self._accepts(at, value) is accepted for at, value in enumerate(values))

    def _accepts(self, at: int, value: int) -> bool | None:
        if (at, value) not in self.answers:
            donor = self.donors[at]
            outcomes = {self.runner.accepts(self.method, {**donor.values, self.name: changed})
                        for changed in _placed(donor.values[self.name], value)}  # fmt: skip
            self.answers[at, value] = outcomes.pop() if len(outcomes) == 1 else None
        return self.answers[at, value]


def _placed(tensor: Tensor, value: int) -> Iterator[Tensor]:
    """Yields the tensor with a value at its first, middle and last place, and at all places."""
    for place in dict.fromkeys((0, tensor.numel() // 2, tensor.numel() - 1)):
        changed = tensor.clone(memory_format=torch.contiguous_format)
        changed.view(-1)[place] = value
        yield changed
    yield torch.full_like(tensor, value)
