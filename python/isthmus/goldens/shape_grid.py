"""Which sizes the goldens have: few shapes that cover the ranges, not every combination."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isthmus.bundle.manifest import DimRange

LARGE = 96
"""A size above every common tile (64) that still keeps goldens small."""

_FLOPS = 100e9
"""No single eager run should take more operations (matrix products, convolutions, attention), as
far as can be foreseen: some seconds on two cores. A count and no time, so that every machine makes
the same goldens."""

_SECONDS = 20.0
"""Of processor time, for what is not counted, such as recurrent layers and loops."""


def shape_grid(
    dims: Mapping[str, DimRange],
    example: Mapping[str, int] | None = None,
    large: int = LARGE,
) -> list[dict[str, int]]:
    """Shapes to probe: the example's own, all at their least, all large, and a covering set.

    Each dimension appears at its least (1 if allowed), a small, an odd and a large size, and two
    dimensions seldom at the same size, so that neither can stand in for the other.

    Args:
        dims: Range of each named dimension.
        example: Sizes of the user's example, the first shape of the grid.
        large: Upper bound of the large sizes where the range goes further.

    Returns:
        Between one shape (no dynamic dimension) and seven, without repetitions.
    """
    names = list(dims)
    levels = [_levels(dims[name], large) for name in names]
    grid: list[dict[str, int]] = [dict(example)] if example is not None else []
    grid.append({name: level[0] for name, level in zip(names, levels, strict=True)})
    for row in range(len(levels[0]) if levels else 0):
        # Neighbours are one level apart: each pair of dimensions meets at four pairs of levels.
        grid.append(
            {
                name: one[(row + at) % len(one)]
                for at, (name, one) in enumerate(zip(names, levels, strict=True))
            }
        )
    grid.append({name: level[-1] for name, level in zip(names, levels, strict=True)})
    unique: list[dict[str, int]] = []
    for shape in grid:
        if shape not in unique:
            unique.append(shape)
    return unique


def _levels(dim_range: DimRange, large: int) -> list[int]:
    """Least, small, odd and large size of a range, always four entries."""
    high = min(dim_range.max, max(large, 2 * dim_range.min + 1))
    least = dim_range.min
    small = min(max(least + 1, 2), high)
    odd = _odd_between(small, high)
    return [least, small, odd, high]


def _odd_between(low: int, high: int) -> int:
    """An odd size, about the geometric mean: large enough to be no special case."""
    middle = max(math.isqrt(low * high), low)
    for size in (middle, middle + 1, middle - 1):
        if size % 2 == 1 and low <= size <= high:
            return size
    return middle


class Cost:
    """What a shape would cost, foreseen from the example's run."""

    def __init__(
        self, sizes: Mapping[str, int], nbytes: int, flops: float, seconds: float, budget: int
    ) -> None:
        self._sizes = sizes
        self._nbytes = nbytes
        self._work = max(flops / _FLOPS, seconds / _SECONDS)
        self._budget = budget

    def large(self) -> int:
        """Upper bound of the large sizes: all of them together within a quarter of the budget."""
        large = LARGE
        while large > 3 and not self.affordable(dict.fromkeys(self._sizes, large)):
            large -= max(large // 4, 1)
        return large

    def affordable(self, shape: Mapping[str, int]) -> bool:
        """Within a quarter of the budget, and quick."""
        ratio = max(1.0, math.prod(shape[n] / max(size, 1) for n, size in self._sizes.items()))
        return ratio * self._nbytes <= self._budget / 4 and ratio * self._work <= 1
