"""The order of an array's channels."""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.proof.replay.mistake import Mistake

__all__ = [
    "MAX_CHANNELS",
    "MIN_VALUES",
    "RESIDUAL",
    "by_channel",
    "channel_order",
    "swapped_channels",
]

MAX_CHANNELS = 16
"""The largest size of an axis of channels."""
MIN_VALUES = 16
"""The least number of values of a channel for which a fit of two numbers proves anything."""
RESIDUAL = 2e-3
"""The largest residual of a fit, as a share of the spread; rounding to half precision fits."""


def channel_order(expected: Tensor, actual: Tensor) -> tuple[int, list[int]] | None:
    """Finds the axis, and the places of `expected` along it, that give the order of `actual`.

    Channels may be scaled and shifted. Returns None if no other order fits.
    """
    for axis, size in enumerate(expected.shape):
        if not 2 <= size <= MAX_CHANNELS:
            continue
        a, b = by_channel(expected, axis), by_channel(actual, axis)
        if a.shape[1] < MIN_VALUES:
            places = _equal_places(a, b)
        else:
            correlation = _correlation(b, a)
            places = correlation.argmax(dim=1).tolist()
            if float(correlation.max(dim=1).values.min()) < 1 - RESIDUAL**2:
                continue
        if places is None or sorted(places) != list(range(size)) or places == list(range(size)):
            continue
        return axis, places
    return None


def by_channel(value: Tensor, axis: int) -> Tensor:
    """Returns the values as [channels, values of a channel]."""
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)


def swapped_channels(axis: int, places: list[int]) -> Mistake:
    """Names the mistake of another order of channels; see `channel_order`."""
    if axis == 0 and len(places) != 3:
        return Mistake(
            "order of rows",
            f"has the entries of axis 0 in another order: {places}",
            "keep the order of the batch on both sides",
        )
    if places == [2, 1, 0]:
        what = "BGR, expected RGB (or the other way round)"
    elif places == [2, 1, 0, 3]:
        what = "BGRA, expected RGBA (or the other way round)"
    else:
        what = f"the expected ones in the order {places}"
    return Mistake(
        "swapped channels",
        f"has its channels (axis {axis}) swapped: {what}",
        "put the channels in the order that the reference has",
    )


def _equal_places(a: Tensor, b: Tensor) -> list[int] | None:
    """Returns the place in `a` of each row of `b`; None unless each is there exactly once."""
    places = []
    for row in b:
        same = [at for at, candidate in enumerate(a) if torch.equal(candidate, row)]
        if len(same) != 1:
            return None
        places.append(same[0])
    return places


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Returns the correlation of each row of `a` with each of `b`; 0 if a row is constant."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = a.norm(dim=1)[:, None] * b.norm(dim=1)[None, :]
    return torch.where(norms > 0, (a @ b.T) / norms.clamp_min(1e-300), torch.zeros_like(norms))
