"""Compares the combinations of sizes and numbers that a method takes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isthmus.bundle.manifest import ServedCase
from isthmus.bundle_diff.findings import Section

__all__ = ["compare_served"]


def compare_served(
    before: Sequence[ServedCase],
    after: Sequence[ServedCase],
    section: Section,
    *,
    dims: Mapping[str, str],
    inputs: Mapping[str, str],
) -> None:
    """Reports a change of the combinations; one that is no longer served breaks callers.

    Args:
        before: The combinations of A; every one is served where it has none.
        after: Those of B.
        section: The section of the method.
        dims: The new name of each dimension.
        inputs: The new name of each input.
    """
    old = [
        ServedCase(
            {dims.get(name, name): size for name, size in case.sizes.items()},
            {inputs.get(name, name): number for name, number in case.numbers.items()},
        )
        for case in before
    ]
    if {str(case) for case in old} == {str(case) for case in after}:
        return
    still = not after or all(
        any(_serves(new, case) for new in after) for case in old or [ServedCase()]
    )
    sides = ["; or ".join(map(str, cases)) or "any" for cases in (before, after)]
    section.change("sizes and numbers together", sides, "changed" if still else "breaking")


def _serves(new: ServedCase, old: ServedCase) -> bool:
    """Returns True where a combination asks for nothing that another one does not."""
    return new.sizes.items() <= old.sizes.items() and new.numbers.items() <= old.numbers.items()
