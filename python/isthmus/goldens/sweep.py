"""Chooses many more sizes than goldens have, which an export checks once and never stores."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isthmus.bundle.manifest import DimRange

__all__ = ["SHAPES", "Load", "Price", "every_size", "sweep_shapes", "wrong_sizes"]

SHAPES = 64
"""The number of shapes of a sweep; with several methods they share it."""
OPERATIONS = 8e9
"""The operations (see `OperationCounter`) of eager's calls together. float64 and each engine run
them once more."""
NBYTES = 256 << 20
"""The bytes of inputs, outputs and errors, which stay in memory until the export ends."""
_SHARE = 4.0
"""A shape may take this many times its share of what is left."""


@dataclass(frozen=True)
class Load:
    """What calls take: operations and bytes."""

    operations: float
    nbytes: float


@dataclass(frozen=True)
class Price:
    """Estimates what a call of another shape takes, from two calls that were measured."""

    sizes: Mapping[str, int]
    """The sizes of the example."""
    example: Load
    smallest: Mapping[str, int]
    """The sizes of the other call, which is no larger."""
    least: Load

    def of(self, shape: Mapping[str, int]) -> Load:
        """Returns an estimate for a shape, on the line through both calls.

        What a call takes grows with the product of its sizes. Where both calls have the same
        product, it is proportional to that.
        """
        ratio, smallest = self._ratio(shape), self._ratio(self.smallest)

        def estimate(example: float, least: float) -> float:
            slope = (example - least) / (1 - smallest) if smallest < 1 else example
            return max(example + slope * (ratio - 1), min(example, least))

        return Load(
            estimate(self.example.operations, self.least.operations),
            estimate(self.example.nbytes, self.least.nbytes),
        )

    def _ratio(self, shape: Mapping[str, int]) -> float:
        return math.prod(max(shape[name], 1) / max(size, 1) for name, size in self.sizes.items())


def sweep_shapes(
    dims: Mapping[str, DimRange],
    price: Price,
    known: Sequence[Mapping[str, int]] = (),
    *,
    seed: int = 0,
    count: int = SHAPES,
    budget: Load | None = None,
) -> list[dict[str, int]]:
    """Returns shapes at which all dimensions vary at once, without repetitions.

    Each dimension runs through its boundaries, odd sizes, sizes beside and at multiples of 8, 16
    and 32, and others, evenly over the logarithm of its range; a range of at most `count` sizes is
    tried whole. What is too costly for the budget is made smaller or left out.

    Args:
        dims: The range of each dimension.
        price: Estimates what a shape takes.
        known: Shapes that need no second try.
        seed: The seed of the choice.
        count: The number of shapes at most.
        budget: What all shapes together may take; None for the default.
    """
    varying = [name for name, size in dims.items() if size.min != size.max]
    if not varying or count < 1:
        return []
    left = budget or Load(OPERATIONS, NBYTES)
    cheapest = price.of({name: size.min for name, size in dims.items()})
    for total, each in ((left.operations, cheapest.operations), (left.nbytes, cheapest.nbytes)):
        count = min(count, int(total / each)) if each else count
    generator = random.Random(seed)
    columns = {name: _sizes(dims[name], count, generator) for name in varying}
    fixed = {name: size.min for name, size in dims.items()}
    shapes: list[dict[str, int]] = []
    for at in range(count):
        shape = {**fixed, **{name: sizes[at] for name, sizes in columns.items()}}
        share = _SHARE / (count - at) if count - at > _SHARE else 1.0
        allowed = Load(left.operations * share, left.nbytes * share)
        fitted = _fitted(shape, varying[at % len(varying)], dims, price, allowed)
        if fitted is None or fitted in shapes or fitted in known:
            continue
        shapes.append(fitted)
        load = price.of(fitted)
        left = Load(left.operations - load.operations, left.nbytes - load.nbytes)
    return shapes


def every_size(dims: Mapping[str, DimRange], shapes: Sequence[Mapping[str, int]]) -> bool:
    """Returns True when the shapes have every combination of sizes that the ranges allow."""
    combinations = math.prod(len(_allowed(size, size.min, size.max)) for size in dims.values())
    return len({tuple(sorted(shape.items())) for shape in shapes}) >= combinations


def wrong_sizes(wrong: Sequence[Mapping[str, int]], all_shapes: Sequence[Mapping[str, int]]) -> str:
    """Returns "wrong at 7 of 64 sizes of w, the first is w=41"; empty where nothing is wrong.

    A dimension is named alone where its size decides what is wrong.
    """
    if not wrong:
        return ""
    right = [shape for shape in all_shapes if shape not in wrong]
    names = [name for name in wrong[0] if len({shape[name] for shape in all_shapes}) > 1]
    deciding = [
        name
        for name in names
        if not {shape[name] for shape in wrong} & {shape[name] for shape in right}
    ]
    named = deciding[:1] if right else names
    named = named or names
    first = min(wrong, key=lambda shape: [shape[name] for name in named])
    sizes = ", ".join(f"{name}={first[name]}" for name in named)
    return (
        f"wrong at {len(wrong)} of {len(all_shapes)} sizes of {' and '.join(named)}, the first is "
        f"{sizes}"
    )


def _allowed(dim: DimRange, low: int, high: int) -> Sequence[int]:
    """Returns the allowed sizes between two bounds."""
    if dim.sizes:
        return [size for size in dim.sizes if low <= size <= high]
    return range(max(dim.min, low), min(dim.max, high) + 1)


def _sizes(dim: DimRange, count: int, generator: random.Random) -> list[int]:
    """Returns `count` sizes of a range in random order."""
    allowed = _allowed(dim, dim.min, dim.max)
    if len(allowed) <= count:
        sizes = [*allowed, *(generator.choice(allowed) for _ in range(count - len(allowed)))]
        generator.shuffle(sizes)
        return sizes
    sizes = [allowed[0], allowed[1], allowed[-2], allowed[-1]][:count]
    low, high = math.log(max(dim.min, 1)), math.log(dim.max)
    strata = count - len(sizes)
    for at in range(strata):
        point = math.exp(low + (high - low) * (at + generator.random()) / strata)
        size = _special(int(point), at)
        if size in sizes or size not in allowed:
            # The low end of the scale has few sizes; the others are spread over the whole range.
            size = generator.choice(allowed)
        sizes.append(size)
    generator.shuffle(sizes)
    return sizes


def _special(size: int, at: int) -> int:
    """Returns a size near `size`: odd, beside or at a multiple of 8, 16 or 32, or `size` itself."""
    kind = at % 5
    if kind == 0:
        return size
    if kind == 1:
        return size | 1
    unit = (8, 16, 32)[at // 5 % 3]
    return max(round(size / unit), 1) * unit + (kind - 3)


def _fitted(
    shape: dict[str, int],
    focus: str,
    dims: Mapping[str, DimRange],
    price: Price,
    allowed: Load,
) -> dict[str, int] | None:
    """Returns the shape, smaller where it takes more than is allowed; None where nothing fits.

    The other dimensions shrink before the one in focus.
    """
    names = [name for name in shape if name != focus]
    for name in sorted(names, key=lambda name: -shape[name]):
        shape = _shrunk(shape, name, dims[name], price, allowed)
    shape = _shrunk(shape, focus, dims[focus], price, allowed)
    return shape if _excess(price.of(shape), allowed) <= 1 else None


def _shrunk(
    shape: dict[str, int], name: str, dim: DimRange, price: Price, allowed: Load
) -> dict[str, int]:
    excess = _excess(price.of(shape), allowed)
    if excess <= 1:
        return shape
    sizes = _allowed(dim, dim.min, max(int(shape[name] / excess), dim.min))
    return {**shape, name: sizes[-1]}


def _excess(load: Load, allowed: Load) -> float:
    pairs = ((load.operations, allowed.operations), (load.nbytes, allowed.nbytes))
    shares = (taken / limit if limit > 0 else math.inf for taken, limit in pairs if taken)
    return max(shares, default=0.0)
