"""Chooses the goldens that a bundle stores; all others are proven at export and forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Hazard

__all__ = ["BUDGET_BYTES", "stored_goldens"]

BUDGET_BYTES = 16 << 20
"""The size of all stored goldens together, in bytes."""


def stored_goldens(
    goldens: Sequence[Golden], budget_bytes: int = BUDGET_BYTES
) -> tuple[list[Golden], tuple[Hazard, ...]]:
    """Returns the goldens to store, in their order, and notes on those that are left out.

    The first golden of each method is always stored. Others are left out until the rest fits, those
    whose shape another golden has before the only one of a shape, and the largest first.

    Args:
        goldens: All goldens that an export proves.
        budget_bytes: The size of the stored goldens together, in bytes.
    """
    stored = list(goldens)
    kept = {golden.steps[0].method: golden for golden in reversed(goldens)}
    total = sum(golden.nbytes for golden in stored)
    while total > budget_bytes:
        spare = [golden for golden in stored if golden is not kept[golden.steps[0].method]]
        if not spare:
            break
        worst = max(spare, key=lambda golden: (_has_twin(golden, stored), golden.nbytes))
        stored = [golden for golden in stored if golden is not worst]
        total -= worst.nbytes
    notes = []
    if total > budget_bytes:
        notes.append(
            Hazard(
                "large_goldens",
                "warning",
                f"the stored goldens take {total >> 20} MiB, more than {budget_bytes >> 20}: the "
                "example itself is large; pass a smaller one",
            )
        )
    if len(stored) < len(goldens):
        names = {golden.name for golden in stored}
        left_out = [golden.name for golden in goldens if golden.name not in names]
        notes.append(
            Hazard(
                "golden_not_stored",
                "info",
                f"{len(left_out)} of {len(goldens)} goldens were proven at export and are not in "
                f"the bundle, which would be too large: {', '.join(left_out)}",
            )
        )
    return stored, tuple(notes)


def _has_twin(golden: Golden, goldens: Sequence[Golden]) -> bool:
    """Returns True when an earlier golden has the same method and shape."""
    for other in goldens:
        if other is golden:
            return False
        if other.dims == golden.dims and other.steps[0].method == golden.steps[0].method:
            return True
    return False
