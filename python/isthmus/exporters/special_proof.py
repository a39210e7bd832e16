"""Finds the values on which an engine differs from the model, from goldens of special values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Tolerance, ValueRange
from isthmus.goldens.compare import compare
from isthmus.goldens.special_values import KINDS, MAGNITUDE, SpecialGolden, own_range
from isthmus.goldens.tolerance import (
    FALLBACK_ULPS,
    NOISE_FACTOR,
    is_float,
    largest_value,
    real_dtype,
    ulp,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Limits", "SpecialJudge", "limits_of"]

_INT64 = torch.iinfo(torch.int64)


@dataclass(frozen=True)
class Limits:
    """The values on which an engine is not proven, as `EngineProof` has them."""

    values: Mapping[str, ValueRange] = field(default_factory=dict)
    unproven: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class SpecialJudge:
    """Judges the outputs of an engine on goldens of special values."""

    def __init__(self, goldens: Sequence[Golden], tolerances: Mapping[str, Tolerance]) -> None:
        """Measures the ordinary goldens, whose outputs the tolerances are meant for."""
        self._tolerances = tolerances
        self._largest: dict[str, float] = {}
        for golden in goldens:
            for step in golden.steps:
                for name, value in step.outputs.items():
                    if is_float(value):
                        known = self._largest.get(name, 0.0)
                        self._largest[name] = max(known, largest_value([value]))

    def differs(self, special: SpecialGolden, results: Sequence[Mapping[str, Tensor]]) -> bool:
        """Returns True when the outputs of the golden's calls are not those of the model."""
        return any(
            not compare(
                name,
                reference,
                outputs.get(name),
                self._tolerance(name, reference),
                own_error=step.errors.get(name),
            )
            for step, outputs in zip(special.golden.steps, results, strict=True)
            for name, reference in step.outputs.items()
        )

    def _tolerance(self, name: str, reference: Tensor) -> Tolerance:
        """Returns the tolerance of an output, in proportion to values that are larger than usual.

        The multiples of eager's own error need no change, for the golden has its own errors.
        """
        tolerance = self._tolerances.get(name, Tolerance(0.0, 0.0))
        if not is_float(reference):
            return tolerance
        largest = largest_value([reference])
        usual = self._largest.get(name, 0.0)
        ratio = largest / usual if usual > 0 else 1.0
        if ratio <= 1.0:
            return tolerance
        allowance = {
            statistic: value if statistic == "cosine" else value * ratio
            for statistic, value in tolerance.allowance.items()
        }
        rounding = NOISE_FACTOR * FALLBACK_ULPS * ulp(largest, real_dtype(reference.dtype))
        return replace(tolerance, atol=max(tolerance.atol, rounding), allowance=allowance)


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
        for name, kind in special.special.items():
            if kind != MAGNITUDE:
                if wrong:
                    unproven.setdefault(name, set()).add(kind)
            elif len(special.limits) == 1:
                numbers = passed.setdefault(name, {})
                limit = special.limits[name]
                numbers[limit] = numbers.get(limit, True) and not wrong
        if wrong and len(special.limits) > 1:
            joint.append(special)
    for special in joint:
        # When one of the inputs alone explains it, the others are not to blame.
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
    values = (step.inputs[name] for golden in goldens for step in golden.steps if name in step.inputs)
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
    return ValueRange(
        _INT64.min if least is None else least, _INT64.max if most is None else most
    )


def _reach(own: int, outwards: Sequence[int], passed: Mapping[int, bool]) -> int | None:
    """Returns the last number before the first that fails; None when none fails."""
    reached = own
    for number in outwards:
        if not passed[number]:
            return reached
        reached = number
    return None
