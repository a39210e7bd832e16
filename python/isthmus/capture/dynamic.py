"""Checks the dynamic dimensions that the user names against the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import DimRange, Hazard
from isthmus.bundle.size_expression import bind_sizes, is_plain, names_of, parse_size
from isthmus.errors import InvalidInput

MAX_SIZE = 2**31 - 1

DynamicSpec = Mapping[str, Mapping[int, str]]
DimsSpec = Mapping[str, "tuple[int, int] | list[int] | DimRange"]


@dataclass(frozen=True)
class Dynamic:
    """The dynamic axes and the ranges of their sizes."""

    axes: dict[str, dict[int, str]]
    """Maps input name and axis (from 0) to the name of the dimension, or to the sizes from which
    it is computed, in canonical text: "past + sequence"."""
    dims: dict[str, DimRange]
    """The ranges by dimension, in the order of first use."""
    sizes: dict[str, int]
    """The size of each dimension in the user's example."""
    notes: tuple[Hazard, ...]


def resolve(
    dynamic: DynamicSpec | None,
    dims: DimsSpec | None,
    examples: Mapping[str, Mapping[str, Any]],
    largest: Mapping[str, int] | None = None,
) -> Dynamic:
    """Returns the dynamic axes with their ranges.

    Args:
        dynamic: Maps an input name, or the common prefix of several ("cache" for "cache.0.key"),
            and an axis to the name of a dimension, or to an expression over names such as
            "past + sequence" or "16 * h". Negative axes count from the end.
        dims: The inclusive (min, max) of each dimension, as a tuple, or its only sizes, as a list.
            When it is None, each dimension gets (1, max(64, 4 * size in the example)), with a note.
        examples: Flat example values by method and input name.
        largest: The largest size of each dimension in further examples, for ranges that are not
            given.

    Raises:
        InvalidInput: An input is unknown, an axis is out of range, a range is missing, unused or
            invalid, or a dimension has two sizes in the example.
    """
    axes = _resolve_axes(dynamic or {}, examples)
    sizes = _sizes(axes, examples)
    ranges, notes = _ranges(dims, sizes, largest or {})
    _no_negative_sizes(axes, ranges)
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
        sized = [(n, v) for n, v in matches if n == key or not isinstance(v, Tensor) or v.dim()]
        # A number among the tensors below a prefix, such as the length of a cache, has no axes.
        for name, value in sized or matches:
            for axis, text in entry.items():
                index, dim = _axis(name, value, axis, text)
                known = axes.setdefault(name, {}).setdefault(index, dim)
                if known != dim:
                    raise InvalidInput(
                        f'dynamic["{key}"]: axis {index} of "{name}" is already "{known}", and '
                        f'cannot be "{dim}" too; give each axis one name'
                    )
    return {name: dict(sorted(entry.items())) for name, entry in axes.items()}


def _axis(name: str, value: Any, axis: Any, dim: Any) -> tuple[int, str]:
    """Returns the axis from 0, and the canonical text of its size."""
    if not isinstance(value, Tensor):
        raise InvalidInput(
            f'dynamic["{name}"]: the input is a {type(value).__name__}, and only tensors have '
            "dimensions; leave it out of dynamic (a scalar input may always change)"
        )
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise InvalidInput(f'dynamic["{name}"]: expected axes as integers, got {axis!r}')
    try:
        size = parse_size(dim if isinstance(dim, str) else "")
    except ValueError as error:
        raise InvalidInput(
            f'dynamic["{name}"][{axis}]: expected a name such as "batch" (letters, digits and '
            f'underscores), or sizes such as "past + sequence" or "samples // 160 + 1", got '
            f"{dim!r}: {error}"
        ) from error
    if not size.names:
        raise InvalidInput(
            f'dynamic["{name}"][{axis}]: "{dim}" has no name, so the size is fixed; leave the axis '
            "out of dynamic"
        )
    if not -value.dim() <= axis < value.dim():
        raise InvalidInput(
            f'dynamic["{name}"]: axis {axis} is out of range; the example has shape '
            f"{list(value.shape)}, so axes go from 0 to {value.dim() - 1}"
        )
    return axis % value.dim(), str(size)


def _sizes(
    axes: Mapping[str, Mapping[int, str]], examples: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Returns the size of each name in the example, and checks every dynamic axis against it."""
    places: list[tuple[str, int, str]] = []
    for values in examples.values():
        for name, value in values.items():
            for axis, dim in axes.get(name, {}).items():
                if axis >= value.dim():
                    raise InvalidInput(
                        f'dynamic["{name}"]: axis {axis} is out of range for the "{name}" of one '
                        f"of the methods, whose example has shape {list(value.shape)}"
                    )
                places.append((dim, int(value.shape[axis]), f'axis {axis} of "{name}"'))
    sizes = bind_sizes((dim, size) for dim, size, _ in places)
    first: dict[str, str] = {}
    for dim, size, place in places:
        for name in names_of(dim):
            if name not in sizes:
                _unsolved(dim, size, place, name)
        if is_plain(dim):
            if sizes[dim] != size:
                raise InvalidInput(
                    f'dynamic: "{dim}" is {sizes[dim]} in {first[dim]} and {size} in {place} '
                    "of the example; equal names mean equal sizes: use another name for one "
                    "of them, or mend the example"
                )
            first.setdefault(dim, place)
        elif parse_size(dim).evaluate(sizes) != size:
            raise InvalidInput(
                f'dynamic: {place} is {size} in the example, and "{dim}" is '
                f"{parse_size(dim).explain(sizes)}; mend the expression or the example"
            )
    # In the order of first use, whether alone or in an expression.
    return {name: sizes[name] for dim, _, _ in places for name in names_of(dim)}


def _unsolved(dim: str, size: int, place: str, name: str) -> None:
    if len(names_of(dim)) == 1 and parse_size(dim).solvable_for(name):
        raise InvalidInput(
            f'dynamic: {place} is {size} in the example, and no whole number "{name}" gives that '
            f'for "{dim}"; mend the expression or the example'
        )
    raise InvalidInput(
        f'dynamic: the size of "{name}" in "{dim}" ({place}) cannot be told from an input; give '
        f'the axis that is "{name}" this name, in dynamic'
    )


def _ranges(
    dims: DimsSpec | None, sizes: Mapping[str, int], largest: Mapping[str, int]
) -> tuple[dict[str, DimRange], tuple[Hazard, ...]]:
    if dims is None:
        ranges = {
            name: DimRange(min(1, size), max(64, 4 * max(size, largest.get(name, 0))))
            for name, size in sizes.items()
        }
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


def _no_negative_sizes(
    axes: Mapping[str, Mapping[int, str]], ranges: Mapping[str, DimRange]
) -> None:
    for name, entry in axes.items():
        for axis, dim in entry.items():
            low, _ = parse_size(dim).bounds(ranges)
            if low < 0:
                least = ", ".join(f"{part} from {ranges[part]}" for part in names_of(dim))
                raise InvalidInput(
                    f'dynamic["{name}"][{axis}]: "{dim}" may be {low} ({least}), and no size is '
                    "negative; narrow the ranges in dims"
                )


def _range(name: str, entry: Any) -> DimRange:
    if isinstance(entry, DimRange):
        bounds, sizes = [entry.min, entry.max], list(entry.sizes)
    elif isinstance(entry, list):
        bounds, sizes = [min(entry), max(entry)] if _whole(entry) else [], sorted(set(entry))
    else:
        bounds, sizes = list(entry) if isinstance(entry, tuple) else [], []
    if len(bounds) != 2 or not _whole(bounds):
        raise InvalidInput(
            f'dims["{name}"]: expected a tuple (min, max) of two integers, or a list of the only '
            f"sizes allowed, got {entry!r}"
        )
    low, high = bounds
    if not 0 <= low <= high <= MAX_SIZE or high == 0:
        raise InvalidInput(
            f'dims["{name}"]: expected 0 <= min <= max <= {MAX_SIZE} and max at least 1, got '
            f"({low}, {high})"
        )
    return DimRange(low, high, tuple(sizes))


def _whole(numbers: Sequence[Any]) -> bool:
    return bool(numbers) and all(type(number) is int for number in numbers)


def _within(ranges: Mapping[str, DimRange], sizes: Mapping[str, int]) -> None:
    for name, value_range in ranges.items():
        if not value_range.allows(sizes[name]):
            raise InvalidInput(
                f'dims["{name}"]: the example has size {sizes[name]}, outside of the range '
                f"{value_range}; widen the range or mend the example"
            )
