"""Judges each layer against float64 and finds the first that diverges beyond its own noise."""

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
"""The factor by which a layer may exceed the multiples that hold for a model's outputs.

Layers are many and small, so their statistics vary more."""


def judge_layer(
    layer: LayerError, engine: Values | None, eager: Values, truth: Values | None
) -> LayerError:
    """Returns the layer with the errors of the engine's values.

    Args:
        layer: The name of the layer.
        engine: The values in the engine; None if the artifact does not show them.
        eager: The values in eager mode.
        truth: The values in float64; None if they are not known.
    """
    if engine is None:
        return replace(layer, seen=False)
    parity = _compare(engine.outputs, eager.outputs, truth.outputs if truth else ())
    if parity is None:
        return replace(layer, seen=False)
    entering = _compare(
        engine.inputs, eager.inputs, truth.inputs if truth else (), every_actual=True
    )
    return replace(
        layer,
        multiple=parity.noise_units if parity.to_truth else parity.strain,
        rms=parity.errors.get("rms", parity.max_abs) if parity.to_truth else parity.max_abs,
        own_rms=parity.own.get("rms", 0.0) if parity.to_truth else parity.atol,
        statistic=parity.statistic if parity.to_truth else "atol",
        diverged=not parity.passed,
        inputs_diverged=entering is not None and not entering.passed,
    )


def _compare(
    actual: Sequence[Tensor],
    expected: Sequence[Tensor],
    truth: Sequence[Tensor],
    *,
    every_actual: bool = False,
) -> OutputParity | None:
    """Returns the worst pair; None when no values can be paired.

    Values are paired by their place if both sides have equally many, else by their shape: a graph
    keeps only what is used, and may hold another value in place of a number or a mask.
    """
    results = []
    if every_actual:
        pairs = [(value, _places_like(value, expected)) for value in actual]
    elif len(actual) == len(expected):
        pairs = [(value, [at]) for at, value in enumerate(actual)]
    else:
        pairs = []
        for at, reference in enumerate(expected):
            pairs += [(value, [at]) for value in _nearest(reference, actual)]
    for value, places in pairs:
        judged = [
            _judge(value, expected[at], truth[at] if at < len(truth) else None)
            for at in places
            if _alike(value, expected[at])
        ]
        if judged:
            # The value may stand for any of them: take the best fit.
            results.append(min(judged, key=lambda parity: (not parity.passed, parity.strain)))
    return worst(results)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _places_like(value: Tensor, candidates: Sequence[Tensor]) -> list[int]:
    return [at for at, candidate in enumerate(candidates) if _alike(candidate, value)]


def _nearest(value: Tensor, candidates: Sequence[Tensor]) -> list[Tensor]:
    fits = [candidates[at] for at in _places_like(value, candidates)]
    if not fits or not is_float(value):
        return []
    return [min(fits, key=lambda fit: float((fit - value).abs().nan_to_num(0.0).max()))]


def _judge(actual: Tensor, expected: Tensor, truth: Tensor | None) -> OutputParity:
    largest = largest_value([expected]) if is_float(expected) else 0.0
    unit = ulp(largest, real_dtype(expected.dtype)) if is_float(expected) else 0.0
    multiples = {
        name: value * (SLACK**2 if name == "cosine" else SLACK) for name, value in MULTIPLES.items()
    }
    # A few elements are too few to measure their noise: assume two units of the largest value.
    own = dict.fromkeys(MULTIPLES, 2 * unit) | {"cosine": 0.0}
    tolerance = Tolerance(FALLBACK_ULPS * unit, 0.0, multiples, own=own)
    return compare("", expected, actual, tolerance, None, own_error(expected, truth))


def blame(layers: Sequence[LayerError]) -> LayerError | None:
    """Returns the first layer that diverges on right inputs; None when no layer diverges.

    When the inputs of the first are wrong already, the fault lies in the code of a parent.

    Args:
        layers: The layers in the order in which they finish.
    """
    by_path: Mapping[str, LayerError] = {layer.path: layer for layer in layers}
    for layer in layers:
        if not layer.seen or not layer.diverged:
            continue
        if not layer.inputs_diverged:
            return layer
        # Everything that finished before is right, so the wrong values come from the code of a
        # module around it.
        parent = layer.path
        while parent:
            parent = parent.rpartition(".")[0]
            around = by_path.get(parent)
            if around is not None and not (around.seen and around.inputs_diverged):
                return around
        return layer
    return None
