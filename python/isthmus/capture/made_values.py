"""Makes inputs of any size from real calls, in several ways of which eager has to accept one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.bundle.manifest import ValueRange, ValueSpec
from isthmus.bundle.size_expression import parse_size
from isthmus.capture.resize import resize

__all__ = ["Donor", "bounds_of", "made_values", "nearest"]

_DONORS = 3
"""The number of real calls from which values of one shape are made before it is given up."""


@dataclass(frozen=True)
class Donor:
    """A real call of a method, from which values of other sizes are made."""

    values: Mapping[str, Any]
    """Tensors and scalars by input name."""
    sizes: Mapping[str, int]
    """The size of each dimension."""


def nearest(donors: Sequence[Donor], sizes: Mapping[str, int]) -> list[Donor]:
    """Returns the donors, those with the most similar sizes first."""

    def distance(donor: Donor) -> float:
        return sum(
            abs(math.log(max(size, 1) / max(donor.sizes.get(name, size), 1)))
            for name, size in sizes.items()
        )

    return sorted(donors, key=distance)


def made_values(
    donors: Sequence[Donor],
    specs: Sequence[ValueSpec],
    axes: Mapping[str, Mapping[int, str]],
    sizes: Mapping[str, int],
    seed: int = 0,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields inputs of these sizes, each with the way in which they were made.

    Integers keep within the ranges of the signature. Scalars stay as they are.

    Args:
        donors: Real calls; those of similar sizes are used first.
        specs: The inputs of the method, which have the ranges of integers.
        axes: The dynamic axes by input name.
        sizes: The size of each dimension.
        seed: The seed of the perturbation; 0 perturbs nothing. See `resize`.
    """
    for donor in nearest(donors, sizes)[:_DONORS]:
        values = _within(resize(donor.values, axes, sizes, seed), specs, sizes)
        yield "repeated or cut to the size, floats perturbed", values
        kept = _within(resize(donor.values, axes, sizes, seed, roll=False), specs, sizes)
        if seed:
            yield "with the integers kept in their order", kept
        for limited in _limited(values, sizes):
            yield "with the integers limited to the least size", limited
        if seed:
            yield "with nothing perturbed", resize(donor.values, axes, sizes)


def bounds_of(value_range: ValueRange, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Returns the least and the greatest value that a range allows at these sizes."""
    low, high = (
        bound if isinstance(bound, int) else parse_size(bound).evaluate(sizes)
        for bound in (value_range.min, value_range.max)
    )
    return low, high


def _within(
    values: dict[str, Any], specs: Sequence[ValueSpec], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the values with integers brought into the ranges of the signature."""
    result = dict(values)
    for spec in specs:
        value = values.get(spec.name)
        if spec.values is None or not isinstance(value, Tensor) or not value.numel():
            continue
        try:
            low, high = bounds_of(spec.values, sizes)
        except KeyError:  # the range is over a dimension that these sizes leave as it is
            continue
        wide = value.long()
        if high < low or (low <= int(wide.min()) and int(wide.max()) <= high):
            continue
        flat = wide.reshape(-1)
        rises = bool((flat.diff() >= 0).all())
        # The remainder keeps values apart; limits keep their order.
        inside = wide.clamp(low, high) if rises else (wide - low).remainder(high - low + 1) + low
        result[spec.name] = inside.to(value.dtype)
    return result


def _limited(values: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yields values whose integers are at most the least dynamic size, and one less.

    Lengths and indices may be out of range after a cut.
    """
    integers = [
        name
        for name, value in values.items()
        if isinstance(value, Tensor)
        and not value.is_floating_point()
        and not value.is_complex()
        and value.dtype != torch.bool
    ]
    if not sizes or not integers:
        return
    least = min(sizes.values())
    for limit in (least, least - 1):
        limited = {name: values[name].clamp(max=max(limit, 0)) for name in integers}
        yield {**values, **limited}
