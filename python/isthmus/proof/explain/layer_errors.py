"""Each layer against float64: which diverge beyond their own noise, and which is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from isthmus.bundle.manifest import Tolerance
from isthmus.goldens.compare import OutputParity, compare, worst
from isthmus.goldens.noise_floor import own_error
from isthmus.goldens.tolerance import (
    FALLBACK_ULPS,
    MULTIPLES,
    is_float,
    largest_value,
    real_dtype,
    ulp,
)
from isthmus.proof.explain.explanation import LayerError
from isthmus.proof.explain.layers import Values

__all__ = ["blame", "judge_layer"]

SLACK = 2.0
"""Layers are many and small: they may be this many times further off than a model's output."""


def judge_layer(
    layer: LayerError, engine: Values | None, eager: Values, truth: Values | None
) -> LayerError:
    """Fills in what the engine's values say of a layer.

    Args:
        layer: Names it.
        engine: What it took and gave there; None where the artifact does not show it.
        eager: The same in eager mode.
        truth: The same in float64; None where that cannot be had.
    """
    if engine is None:
        return replace(layer, seen=False)
    found = _compare(engine.outputs, eager.outputs, truth.outputs if truth else ())
    if found is None:
        return replace(layer, seen=False)
    entering = _compare(
        engine.inputs, eager.inputs, truth.inputs if truth else (), every_actual=True
    )
    return replace(
        layer,
        multiple=found.noise_units if found.to_truth else found.strain,
        rms=found.errors.get("rms", found.max_abs) if found.to_truth else found.max_abs,
        own_rms=found.own.get("rms", 0.0) if found.to_truth else found.atol,
        statistic=found.statistic if found.to_truth else "atol",
        diverged=not found.passed,
        inputs_diverged=entering is not None and not entering.passed,
    )


def _compare(
    actual: Sequence[Tensor],
    expected: Sequence[Tensor],
    truth: Sequence[Tensor],
    *,
    every_actual: bool = False,
) -> OutputParity | None:
    """The worst pair; None when none can be paired.

    Values are paired by their place where both sides have as many, else by their shape: a graph
    keeps only what is used, and what it keeps of a number or a mask is another value.
    """
    results = []
    if every_actual:
        pairs = [(one, _like(one, expected)) for one in actual]
    elif len(actual) == len(expected):
        pairs = [(one, [at]) for at, one in enumerate(actual)]
    else:
        pairs = []
        for at, one in enumerate(expected):
            pairs += [(other, [at]) for other in _nearest(one, actual)]
    for value, places in pairs:
        judged = [
            _judge(value, expected[at], truth[at] if at < len(truth) else None)
            for at in places
            if value.shape == expected[at].shape and value.dtype == expected[at].dtype
        ]
        if judged:
            # Of several that it may stand for, the one that fits.
            results.append(min(judged, key=lambda one: (not one.passed, one.strain)))
    return worst(results)


def _like(value: Tensor, several: Sequence[Tensor]) -> list[int]:
    return [
        at
        for at, one in enumerate(several)
        if one.shape == value.shape and one.dtype == value.dtype
    ]


def _nearest(value: Tensor, several: Sequence[Tensor]) -> list[Tensor]:
    fits = [one for one in several if one.shape == value.shape and one.dtype == value.dtype]
    if not fits or not is_float(value):
        return []
    return [min(fits, key=lambda fit: float((fit - value).abs().nan_to_num(0.0).max()))]


def _judge(actual: Tensor, expected: Tensor, truth: Tensor | None) -> OutputParity:
    largest = largest_value([expected]) if is_float(expected) else 0.0
    unit = ulp(largest, real_dtype(expected.dtype)) if is_float(expected) else 0.0
    multiples = {
        name: value * (SLACK**2 if name == "cosine" else SLACK) for name, value in MULTIPLES.items()
    }
    # A few elements tell little of their own noise: a few units of the largest stand for it.
    own = dict.fromkeys(MULTIPLES, 2 * unit) | {"cosine": 0.0}
    tolerance = Tolerance(FALLBACK_ULPS * unit, 0.0, multiples, own=own)
    return compare("", expected, actual, tolerance, None, own_error(expected, truth))


def blame(layers: Sequence[LayerError]) -> LayerError | None:
    """The first that diverges; its parent's own code where it was given wrong values already.

    Args:
        layers: In the order in which they finish.
    """
    by_path: Mapping[str, LayerError] = {layer.path: layer for layer in layers}
    for one in layers:
        if not one.seen or not one.diverged:
            continue
        if not one.inputs_diverged:
            return one
        # Everything that finished before is right, so the wrong values come from the code of
        # whatever is around it.
        parent = one.path
        while parent:
            parent = parent.rpartition(".")[0]
            around = by_path.get(parent)
            if around is not None and not (around.seen and around.inputs_diverged):
                return around
        return one
    return None
