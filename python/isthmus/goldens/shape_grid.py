"""Chooses the shapes of goldens: a few that cover the ranges instead of every combination."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isthmus.bundle.manifest import DimRange

LARGE = 96
"""A size above the common tile size (64) that still keeps goldens small."""

_FLOPS = 100e9
"""The number of operations (matrix products, convolutions, attention) that an eager run may take:
some seconds on two cores. It is not a time, so that every machine makes the same goldens."""

_SECONDS = 20.0
"""The processor time of a run, which limits uncounted work such as recurrent layers and loops."""


def shape_grid(
    dims: Mapping[str, DimRange],
    example: Mapping[str, int] | None = None,
    large: int = LARGE,
) -> list[dict[str, int]]:
    """Returns the shapes to probe: the example's, the smallest, a covering set, and the largest.

    Each dimension appears at its least (1 if allowed), a small, an odd and a large size. Two
    dimensions seldom have the same size, so that one cannot be taken for the other.

    Args:
        dims: The range of each named dimension.
        example: The sizes of the user's example, which is the first shape of the grid.
        large: The upper bound of the large sizes where the range goes further.

    Returns:
        Between one shape (without dynamic dimensions) and seven, without repetitions.
    """
    names = list(dims)
    levels = [_levels(dims[name], large) for name in names]
    grid: list[dict[str, int]] = [dict(example)] if example is not None else []
    grid.append({name: level[0] for name, level in zip(names, levels, strict=True)})
    for row in range(len(levels[0]) if levels else 0):
        # Neighbours are one level apart: each pair of dimensions meets at four pairs of levels.
        grid.append(
            {
                name: level[(row + at) % len(level)]
                for at, (name, level) in enumerate(zip(names, levels, strict=True))
            }
        )
    grid.append({name: level[-1] for name, level in zip(names, levels, strict=True)})
    unique: list[dict[str, int]] = []
    for shape in grid:
        if shape not in unique:
            unique.append(shape)
    return unique


def _levels(dim_range: DimRange, large: int) -> list[int]:
    """Returns the least, a small, an odd and a large size of a range; four of a set of sizes."""
    if dim_range.sizes:
        last = len(dim_range.sizes) - 1
        return [dim_range.sizes[last * at // 3] for at in range(4)]
    high = min(dim_range.max, max(large, 2 * dim_range.min + 1))
    least = dim_range.min
    small = min(max(least + 1, 2), high)
    odd = _odd_between(small, high)
    return [least, small, odd, high]


def _odd_between(low: int, high: int) -> int:
    """Returns an odd size near the geometric mean, large enough to be no special case."""
    middle = max(math.isqrt(low * high), low)
    for size in (middle, middle + 1, middle - 1):
        if size % 2 == 1 and low <= size <= high:
            return size
    return middle


class Cost:
    """Estimates the cost of a shape from the run of the example."""

    def __init__(
        self, sizes: Mapping[str, int], nbytes: int, flops: float, seconds: float, budget: int
    ) -> None:
        self._sizes = sizes
        self._nbytes = nbytes
        self._work = max(flops / _FLOPS, seconds / _SECONDS)
        # The example may take more than its share, and its outputs need not grow with its sizes.
        self._most = max(budget / 4, 2 * nbytes)

    def large(self) -> int:
        """Returns the largest upper bound of sizes at which all of them together are affordable."""
        large = LARGE
        while large > 3 and not self.affordable(dict.fromkeys(self._sizes, large)):
            large -= max(large // 4, 1)
        return large

    def affordable(self, shape: Mapping[str, int]) -> bool:
        """Returns True when a shape takes at most a quarter of the budget, and is not too slow.

        Where the example itself takes more, a shape may take twice as much as the example.
        """
        ratio = max(1.0, math.prod(shape[n] / max(size, 1) for n, size in self._sizes.items()))
        return ratio * self._nbytes <= self._most and ratio * self._work <= 1
