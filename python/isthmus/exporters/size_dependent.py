"""Finds operators that compute places from sizes, which engines may do one pixel apart."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from isthmus.bundle.manifest import Artifact, Hazard
from isthmus.capture.capture import Captured
from isthmus.capture.operator_mode import OperatorMode
from isthmus.capture.run_module import ModuleRunner
from isthmus.exporters.source_lines import in_frames

__all__ = ["SizeDependent", "size_dependent_operators", "with_size_hazards"]

_RESIZING = ("upsample", "adaptive_avg_pool", "adaptive_max_pool", "grid_sampler", "affine_grid")
_POOLING = ("avg_pool", "max_pool")
_RAMPS = ("arange", "linspace")


@dataclass(frozen=True)
class SizeDependent:
    """An operator whose result follows from sizes."""

    operator: str
    """The name in aten: "upsample_nearest2d"."""
    where: str
    """file:line of the user's code; empty where it is not known."""


def size_dependent_operators(captured: Captured) -> tuple[SizeDependent, ...]:
    """Returns the operators of a module that interpolate, pool to a size or count to one.

    Only those are returned whose sizes differ between two calls at other sizes. Ramps of whole
    numbers are exact on every engine and left out.
    """
    if not captured.dims:
        return ()
    found: dict[SizeDependent, None] = {}
    with ModuleRunner(captured.module) as runner:
        for method in captured.methods:
            calls = [captured.given[method.name]]
            calls += [
                {name: step.inputs.get(name) for name in captured.given[method.name]}
                for golden in captured.sweep[:2]
                for step in golden.steps[:1]
                if step.method == method.name
            ]
            observed = [_observe(runner, method, values) for values in calls]
            for (place, first), *others in zip(*observed, strict=False):
                if any(place == other and first != sizes for other, sizes in others):
                    found[place] = None
    return tuple(found)


def _observe(
    runner: ModuleRunner, method: Any, values: Mapping[str, Any]
) -> list[tuple[SizeDependent, Any]]:
    watch = _Watch()
    try:
        with runner.run(), watch:
            runner.call(method, values)
    except Exception:  # the module does not run under a dispatch mode
        return []
    return watch.found


class _Watch(OperatorMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[SizeDependent, Any]] = []

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        name = getattr(getattr(func, "overloadpacket", None), "__name__", "").strip("_")
        plain = tuple(leaf for leaf in tree_leaves((args, kwargs)) if not isinstance(leaf, Tensor))
        sizes: Any = None
        if name.startswith(_RESIZING):
            shapes = [tuple(leaf.shape) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            sizes = (plain, shapes)
        elif name.startswith(_POOLING) or (name.startswith(_RAMPS) and result.is_floating_point()):
            sizes = plain
        if sizes is not None:
            where, _ = in_frames(sys._getframe(1))
            self.found.append((SizeDependent(name, where), sizes))
        return result


def with_size_hazards(
    artifact: Artifact, operators: Sequence[SizeDependent], swept: str
) -> Artifact:
    """Adds a hazard for each size-dependent operator that the artifact keeps.

    Args:
        artifact: An artifact that verified.
        operators: The operators of the module.
        swept: At how many sizes it was tried: "64 sizes of h and w".
    """
    kept = [operator for operator in operators if _keeps(artifact, operator)]
    hazards = tuple(
        Hazard(
            "size_dependent",
            "info",
            f"{operator.operator} computes places from sizes, which an engine may do otherwise at "
            f"some: it was right at {swept}, and others were not tried",
            operator.where,
        )
        for operator in kept
    )
    return replace(artifact, hazards=(*artifact.hazards, *hazards))


def _keeps(artifact: Artifact, operator: SizeDependent) -> bool:
    """Returns False where an exact translation took the operator's place in an ONNX graph."""
    if artifact.format != "onnx" or not operator.operator.startswith("upsample"):
        return True
    return any("Resize" in name or "Upsample" in name for name in artifact.operators)
