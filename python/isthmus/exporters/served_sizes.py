"""Artifacts that serve fewer sizes of the named dimensions than the bundle."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import Artifact, DimRange, Hazard, sizes_text
from isthmus.exporters.size_guards import allowed_sizes

if TYPE_CHECKING:
    from isthmus.exporters.check import Verdict
    from isthmus.exporters.export_request import ExportRequest

__all__ = ["has_core", "proven_sizes", "sizes_hazard", "warn_of_sizes", "without_wrong_edges"]


def has_core(request: ExportRequest, sizes: Mapping[str, DimRange]) -> bool:
    """Returns True when these sizes have the core of the ranges.

    The core is the size of the example, and at least half of the sizes of each dimension.
    """
    example = request.goldens[0].dims if request.goldens else {}
    return all(
        limits.allows(example.get(name, limits.min))
        and 2 * len(allowed_sizes(limits)) >= len(allowed_sizes(request.dims[name]))
        for name, limits in sizes.items()
    )


def without_wrong_edges(request: ExportRequest, verdict: Verdict) -> dict[str, DimRange]:
    """Returns the sizes that are left without the edges of a range at which an artifact fails.

    All failures have to lie at the edges of one dimension, beyond every size at which it passed.
    Where that holds for several dimensions, the one is cut of which the most sizes are left.

    Returns:
        The range that is left of the dimension; empty where failures lie elsewhere, or the core of
        the ranges is among them.
    """
    example = request.goldens[0].dims if request.goldens else {}
    found: list[tuple[float, dict[str, DimRange]]] = []
    for name, own in example.items():
        wrong = {sizes[name] for sizes in verdict.wrong if name in sizes}
        if own in wrong or not wrong or any(name not in sizes for sizes in verdict.wrong):
            continue
        low = max((size for size in wrong if size < own), default=-1)
        high = min((size for size in wrong if size > own), default=sys.maxsize)
        if any(not low < sizes[name] < high for sizes in verdict.right if name in sizes):
            continue
        allowed = allowed_sizes(request.dims[name])
        left = {name: _only(request.dims[name], low + 1, high - 1)}
        if has_core(request, left):
            found.append((len(allowed_sizes(left[name])) / len(allowed), left))
    return max(found, key=lambda pair: pair[0])[1] if found else {}


def proven_sizes(
    sizes: Mapping[str, DimRange], dims: Mapping[str, DimRange], verdict: Verdict
) -> dict[str, DimRange]:
    """Returns the sizes that are left of ranges without edges: none beyond what was tried there.

    Args:
        sizes: The ranges without their wrong edges.
        dims: The ranges as they were before.
        verdict: The verdict on these sizes.
    """
    proven = dict(sizes)
    for name, limits in sizes.items():
        tried = [right[name] for right in verdict.right if name in right]
        if tried:
            low = limits.min if limits.min == dims[name].min else min(tried)
            high = limits.max if limits.max == dims[name].max else max(tried)
            proven[name] = _only(limits, low, high)
    return proven


def _only(limits: DimRange, low: int, high: int) -> DimRange:
    """Returns the part of a range between two bounds."""
    if limits.sizes:
        sizes = tuple(size for size in limits.sizes if low <= size <= high)
        return DimRange(sizes[0], sizes[-1], sizes)
    return DimRange(max(limits.min, low), min(limits.max, high))


def sizes_hazard(what: str, sizes: Mapping[str, DimRange]) -> tuple[Hazard, ...]:
    """Returns the hazard of an artifact that serves these sizes only; none where it serves all."""
    served = sizes_text(sizes)
    if not served:
        return ()
    return (Hazard("fewer_sizes", "warning", f"{what} serves {served} only"),)


def warn_of_sizes(artifacts: Iterable[Artifact]) -> None:
    """Warns of each artifact that serves fewer sizes than the bundle."""
    for artifact in artifacts:
        if artifact.sizes:
            warnings.warn(
                f"{artifact.name} serves {artifact.sizes_text} only, and refuses other sizes; "
                'engine="auto" takes an artifact that serves all of them where the bundle has one',
                RuntimeWarning,
                stacklevel=4,
            )
