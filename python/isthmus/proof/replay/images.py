"""Differences between arrays of numbers: layout, order of channels, scale and mean."""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.proof.replay.arrangements import Arrangement, arrangements
from isthmus.proof.replay.channels import channel_order, swapped_channels
from isthmus.proof.replay.mistake import Mistake
from isthmus.proof.replay.scaling import find_fit, wrong_scale

__all__ = ["image_difference"]

_ROUNDING = 1e-3
"""The largest residual of values that count as the same, rounded."""


def image_difference(expected: Tensor, actual: Tensor) -> Mistake | None:
    """Names the arrangement, order of channels and scale that turn one array into the other.

    Args:
        expected: Real numbers of any shape.
        actual: Real numbers of any shape; it is compared if it has as many elements.

    Returns:
        The simplest explanation, its parts joined by " + "; None if there is none.
    """
    if expected.numel() != actual.numel() or expected.numel() < 2 or expected.is_complex():
        return None
    a, b = expected.to(torch.float64), actual.to(torch.float64)
    if not bool(a.isfinite().all()) or not bool(b.isfinite().all()):
        return None
    best: list[Mistake] = []
    for arrangement in arrangements(a, b):
        mistakes = _explain(arrangement, b)
        if mistakes is not None and (not best or len(mistakes) < len(best)):
            best = mistakes
            if len(best) == 1:
                break
    if not best:
        return None
    kinds, sentences, remedies = zip(*best, strict=True)
    return Mistake(" + ".join(kinds), "; ".join(sentences), "; ".join(remedies))


def _explain(arrangement: Arrangement, actual: Tensor) -> list[Mistake] | None:
    """Returns the mistakes that explain `actual`, with this arrangement; None if none do."""
    mistakes = [arrangement.mistake] if arrangement.mistake is not None else []
    value = arrangement.value
    actual = actual.reshape(value.shape)
    if _residual(value, actual) <= _ROUNDING:
        return mistakes or [_rounded(value, actual)]
    order = channel_order(value, actual)
    if order is not None:
        axis, places = order
        value = value.index_select(axis, torch.tensor(places))
        mistakes.append(swapped_channels(axis, places))
        if _residual(value, actual) <= _ROUNDING:
            return mistakes
    fit = find_fit(value, actual)
    if fit is None:
        return None
    if not fit.is_identity:
        mistakes.append(wrong_scale(fit))
    return mistakes or [_rounded(value, actual)]


def _residual(expected: Tensor, actual: Tensor) -> float:
    """Returns the RMS difference as a share of the spread of `expected`."""
    spread = float(expected.std(correction=0)) or float(expected.abs().max()) or 1.0
    return float((actual - expected).square().mean().sqrt()) / spread


def _rounded(expected: Tensor, actual: Tensor) -> Mistake:
    most = float((actual - expected).abs().max())
    return Mistake(
        "rounding", f"is the input expected, rounded: it differs by {most:.3g} at most", ""
    )
