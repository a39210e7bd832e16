"""Artifacts that serve fewer sizes of the named dimensions than the bundle."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import Artifact, DimRange, Hazard, sizes_text
from isthmus.exporters.size_guards import allowed_sizes

if TYPE_CHECKING:
    from isthmus.exporters.export_request import ExportRequest

__all__ = ["has_core", "sizes_hazard", "warn_of_sizes"]


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
