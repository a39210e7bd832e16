"""Finds the values on which an engine differs from the model, from goldens of special values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import ValueRange
from isthmus.goldens.special_values import KINDS, MAGNITUDE, SpecialGolden, own_range
from isthmus.goldens.tolerance import is_float

__all__ = ["Limits", "limits_of"]

_INT64 = torch.iinfo(torch.int64)


@dataclass(frozen=True)
class Limits:
    """The values on which an engine is not proven, as `EngineProof` has them."""

    values: Mapping[str, ValueRange] = field(default_factory=dict)
    unproven: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def limits_of(
    specials: Sequence[SpecialGolden], differs: Sequence[bool], goldens: Sequence[Golden]
) -> Limits:
    """Returns the limits of an engine.

    Args:
        specials: The goldens of special values.
        differs: Whether the engine differs, for each of them.
        goldens: The ordinary goldens, on which the engine passed.
    """
    unproven: dict[str, set[str]] = {}
    passed: dict[str, dict[int, bool]] = {}
    joint: list[SpecialGolden] = []
    for special, wrong in zip(specials, differs, strict=True):
        if len(special.special) > 1:
            if wrong:
                joint.append(special)
            continue
        for name, kind in special.special.items():
            if kind == MAGNITUDE:
                numbers = passed.setdefault(name, {})
                limit = special.limits[name]
                numbers[limit] = numbers.get(limit, True) and not wrong
            elif wrong:
                unproven.setdefault(name, set()).add(kind)
    alone = {name: frozenset(kinds) for name, kinds in unproven.items()}
    for special in joint:
        # When one of the inputs alone explains it, the others are not to blame.
        if any(kind in alone.get(name, ()) for name, kind in special.special.items()):
            continue
        for name, kind in special.special.items():
            if kind != MAGNITUDE:
                unproven.setdefault(name, set()).add(kind)
        if any(_fails_up_to(passed.get(name, {}), limit) for name, limit in special.limits.items()):
            continue
        for name, limit in special.limits.items():
            passed.setdefault(name, {})[limit] = False
    values = {}
    for name, numbers in passed.items():
        proven = _proven_range(own_range(name, goldens), numbers, _is_float_input(name, goldens))
        if proven is not None:
            values[name] = proven
    return Limits(
        values,
        {name: tuple(kind for kind in KINDS if kind in kinds) for name, kinds in unproven.items()},
    )


def _fails_up_to(passed: Mapping[int, bool], limit: int) -> bool:
    """Returns True when a number of the same sign, and not larger, fails alone."""
    return any(
        not good and abs(number) <= abs(limit) and (number < 0) == (limit < 0)
        for number, good in passed.items()
    )


def _is_float_input(name: str, goldens: Sequence[Golden]) -> bool:
    values = (
        step.inputs[name] for golden in goldens for step in golden.steps if name in step.inputs
    )
    return any(is_float(value) for value in values)


def _proven_range(
    own: tuple[int, int], passed: Mapping[int, bool], symmetric: bool
) -> ValueRange | None:
    """Returns the numbers around those of the ordinary goldens up to the first that fail."""
    numbers = dict(passed)
    if symmetric:
        numbers |= {-number: good for number, good in passed.items()}
    least = _reach(own[0], [n for n in sorted(numbers, reverse=True) if n < own[0]], numbers)
    most = _reach(own[1], [n for n in sorted(numbers) if n > own[1]], numbers)
    if least is None and most is None:
        return None
    return ValueRange(_INT64.min if least is None else least, _INT64.max if most is None else most)


def _reach(own: int, outwards: Sequence[int], passed: Mapping[int, bool]) -> int | None:
    """Returns the last number before the first that fails; None when none fails."""
    reached = own
    for number in outwards:
        if not passed[number]:
            return reached
        reached = number
    return None
