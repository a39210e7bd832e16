"""Checks the dynamic dimensions that the user names against the example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import DimRange, Hazard
from isthmus.errors import InvalidInput

MAX_SIZE = 2**31 - 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

DynamicSpec = Mapping[str, Mapping[int, str]]
DimsSpec = Mapping[str, "tuple[int, int] | DimRange"]


@dataclass(frozen=True)
class Dynamic:
    """The dynamic axes and the ranges of their sizes."""

    axes: dict[str, dict[int, str]]
    """Maps input name and axis (from 0) to the name of the dimension."""
    dims: dict[str, DimRange]
    """The ranges by dimension, in the order of first use."""
    sizes: dict[str, int]
    """The size of each dimension in the user's example."""
    notes: tuple[Hazard, ...]


def resolve(
    dynamic: DynamicSpec | None,
    dims: DimsSpec | None,
    examples: Mapping[str, Mapping[str, Any]],
) -> Dynamic:
    """Returns the dynamic axes with their ranges.

    Args:
        dynamic: Maps an input name, or the common prefix of several ("cache" for "cache.0.key"),
            and an axis to the name of a dimension. Negative axes count from the end.
        dims: The inclusive (min, max) of each dimension. When it is None, each dimension gets
            (1, max(64, 4 * size in the example)), with a note.
        examples: Flat example values by method and input name.

    Raises:
        InvalidInput: An input is unknown, an axis is out of range, a range is missing, unused or
            invalid, or a dimension has two sizes in the example.
    """
    axes = _resolve_axes(dynamic or {}, examples)
    sizes = _sizes(axes, examples)
    ranges, notes = _ranges(dims, sizes)
    return Dynamic(axes, ranges, sizes, notes)


def _resolve_axes(
    dynamic: DynamicSpec, examples: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[int, str]]:
    if not isinstance(dynamic, Mapping):
        raise InvalidInput(
            f'dynamic: expected a dict such as {{"x": {{0: "batch"}}}}, got '
            f"{type(dynamic).__name__}"
        )
    inputs = [(name, value) for values in examples.values() for name, value in values.items()]
    axes: dict[str, dict[int, str]] = {}
    for key, entry in dynamic.items():
        matches = [(n, v) for n, v in inputs if n == key or n.startswith(f"{key}.")]
        if not matches:
            names = ", ".join(dict.fromkeys(name for name, _ in inputs)) or "none"
            raise InvalidInput(f'dynamic: there is no input "{key}"; the inputs are: {names}')
        if not isinstance(entry, Mapping):
            raise InvalidInput(
                f'dynamic["{key}"]: expected a dict of axis to name such as {{0: "batch"}}, got '
                f"{entry!r}"
            )
        for name, value in matches:
            for axis, dim in entry.items():
                index = _axis(name, value, axis, dim)
                known = axes.setdefault(name, {}).setdefault(index, dim)
                if known != dim:
                    raise InvalidInput(
                        f'dynamic["{key}"]: axis {index} of "{name}" is already "{known}", and '
                        f'cannot be "{dim}" too; give each axis one name'
                    )
    return {name: dict(sorted(entry.items())) for name, entry in axes.items()}


def _axis(name: str, value: Any, axis: Any, dim: Any) -> int:
    if not isinstance(value, Tensor):
        raise InvalidInput(
            f'dynamic["{name}"]: the input is a {type(value).__name__}, and only tensors have '
            "dimensions; leave it out of dynamic (a scalar input may always change)"
        )
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise InvalidInput(f'dynamic["{name}"]: expected axes as integers, got {axis!r}')
    if not isinstance(dim, str) or not _NAME.fullmatch(dim):
        raise InvalidInput(
            f'dynamic["{name}"][{axis}]: expected a name such as "batch" (letters, digits and '
            f"underscores), got {dim!r}"
        )
    if not -value.dim() <= axis < value.dim():
        raise InvalidInput(
            f'dynamic["{name}"]: axis {axis} is out of range; the example has shape '
            f"{list(value.shape)}, so axes go from 0 to {value.dim() - 1}"
        )
    return axis % value.dim()


def _sizes(
    axes: Mapping[str, Mapping[int, str]], examples: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    sizes: dict[str, int] = {}
    first: dict[str, str] = {}
    for values in examples.values():
        for name, value in values.items():
            for axis, dim in axes.get(name, {}).items():
                if axis >= value.dim():
                    raise InvalidInput(
                        f'dynamic["{name}"]: axis {axis} is out of range for the "{name}" of one '
                        f"of the methods, whose example has shape {list(value.shape)}"
                    )
                size, place = int(value.shape[axis]), f'axis {axis} of "{name}"'
                if sizes.setdefault(dim, size) != size:
                    raise InvalidInput(
                        f'dynamic: "{dim}" is {sizes[dim]} in {first[dim]} and {size} in {place} '
                        "of the example; equal names mean equal sizes: use another name for one "
                        "of them, or mend the example"
                    )
                first.setdefault(dim, place)
    return sizes


def _ranges(
    dims: DimsSpec | None, sizes: Mapping[str, int]
) -> tuple[dict[str, DimRange], tuple[Hazard, ...]]:
    if dims is None:
        ranges = {name: DimRange(1, max(64, 4 * size)) for name, size in sizes.items()}
        notes = tuple(
            Hazard(
                "default_range",
                "info",
                f'"{name}" goes from {value_range.min} to {value_range.max}, as no range was '
                f'given; say dims={{"{name}": (min, max)}} for another',
            )
            for name, value_range in ranges.items()
        )
        _within(ranges, sizes)
        return ranges, notes
    unused = [name for name in dims if name not in sizes]
    if unused:
        used = ", ".join(sizes) or "none"
        raise InvalidInput(
            f'dims: "{unused[0]}" is not used by any input (dynamic names: {used}); name the axis '
            "in dynamic, or leave it out of dims"
        )
    missing = [name for name in sizes if name not in dims]
    if missing:
        name = missing[0]
        raise InvalidInput(
            f'dims: no range for "{name}", which is {sizes[name]} in the example; add '
            f'"{name}": (min, max) to dims'
        )
    ranges = {name: _range(name, dims[name]) for name in sizes}
    _within(ranges, sizes)
    return ranges, ()


def _range(name: str, entry: Any) -> DimRange:
    pair = (entry.min, entry.max) if isinstance(entry, DimRange) else entry
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or any(isinstance(bound, bool) or not isinstance(bound, int) for bound in pair)
    ):
        raise InvalidInput(f'dims["{name}"]: expected (min, max), two integers, got {entry!r}')
    low, high = pair
    if not 0 <= low <= high <= MAX_SIZE or high == 0:
        raise InvalidInput(
            f'dims["{name}"]: expected 0 <= min <= max <= {MAX_SIZE} and max at least 1, got '
            f"({low}, {high})"
        )
    return DimRange(low, high)


def _within(ranges: Mapping[str, DimRange], sizes: Mapping[str, int]) -> None:
    for name, value_range in ranges.items():
        if not value_range.min <= sizes[name] <= value_range.max:
            raise InvalidInput(
                f'dims["{name}"]: the example has size {sizes[name]}, outside of the range '
                f"({value_range.min}, {value_range.max}); widen the range or mend the example"
            )
