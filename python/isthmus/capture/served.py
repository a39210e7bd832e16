"""Finds which sizes and numbers a method takes together, where it does not take all of them.

A stream may be cut into 512 samples at 16 kHz and into 256 at 8 kHz, and into nothing else. Where
real calls differ in a number, each number is tried at the sizes of each call: if eager refuses some
of these, the combinations that it accepts are what the bundle serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isthmus.bundle.manifest import DimRange, Hazard, Method, ServedCase
from isthmus.capture.made_values import Donor
from isthmus.capture.resize import resize
from isthmus.capture.run_module import ModuleRunner

__all__ = ["Served", "find_served"]

Numbers = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Served:
    """What a method serves, found with real calls."""

    cases: tuple[ServedCase, ...]
    """The combinations; empty where every one is served."""
    dims: dict[str, DimRange]
    """The ranges, with the only sizes of dimensions that go with a number."""
    donors: list[Donor]
    """The user's further calls, and one of each further combination that is served."""
    notes: list[Hazard]


def find_served(
    runner: ModuleRunner,
    method: Method,
    donors: Sequence[Donor],
    axes: Mapping[str, Mapping[int, str]],
    dims: Mapping[str, DimRange],
) -> Served:
    """Returns what a method serves.

    Args:
        runner: The runner of the module.
        method: The method without outputs.
        donors: Real calls, the example first.
        axes: The dynamic axes by input name.
        dims: The range of each dimension.
    """
    free = Served((), dict(dims), list(donors[1:]), [])
    numbers = [spec.name for spec in method.inputs if spec.kind != "tensor"]
    numbers = [name for name in numbers if len({d.values[name] for d in donors}) > 1]
    if not numbers:
        return free
    tied = [
        name
        for name in donors[0].sizes
        if not all(
            runner.accepts(method, _resized(donor, axes, {name: other.sizes[name]}))
            for donor in donors
            for other in donors
            if other.sizes[name] != donor.sizes[name]
        )
    ]
    accepted: dict[tuple[Numbers, Numbers], Donor] = {}
    refused = False
    for sizes_of in donors:
        for numbers_of in donors:
            sizes = {name: sizes_of.sizes[name] for name in tied}
            own = {name: numbers_of.values[name] for name in numbers}
            place = (tuple(sizes.items()), tuple(own.items()))
            values = sizes_of.values if sizes_of is numbers_of else {**sizes_of.values, **own}
            if place in accepted and sizes_of is not numbers_of:
                continue
            if sizes_of is numbers_of or runner.accepts(method, values):
                accepted[place] = Donor(values, sizes_of.sizes)
            else:
                refused = True
    if not refused:
        return free
    cases = tuple(
        ServedCase(dict(sizes), {name: float(number) for name, number in own})
        for sizes, own in accepted
    )
    limited = {
        name: _only(limits, sorted({case.sizes[name] for case in cases}))
        if name in tied
        else limits
        for name, limits in dims.items()
    }
    known = {id(donor.values) for donor in donors}
    more = [donor for donor in accepted.values() if id(donor.values) not in known]
    note = Hazard(
        "served_cases",
        "info",
        f"{method.name} takes only some sizes and numbers together: "
        f"{'; or '.join(map(str, cases))}. A call with another combination is refused",
    )
    return Served(cases, limited, [*donors[1:], *more], [note])


def _only(limits: DimRange, sizes: Sequence[int]) -> DimRange:
    return replace(limits, min=sizes[0], max=sizes[-1], sizes=tuple(sizes))


def _resized(
    donor: Donor, axes: Mapping[str, Mapping[int, str]], sizes: Mapping[str, int]
) -> dict[str, Any]:
    return resize(donor.values, axes, {**donor.sizes, **sizes})
