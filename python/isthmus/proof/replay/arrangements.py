"""The orders in which a program may lay out the values of an array by mistake."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from isthmus.proof.replay.channels import MAX_CHANNELS
from isthmus.proof.replay.mistake import Mistake

__all__ = ["Arrangement", "arrangements"]

_MAX_RANK = 5
"""The largest rank whose permutations are tried."""
_LAYOUTS = {
    (0, 2, 3, 1): ("NHWC", "NCHW"),
    (1, 2, 0): ("HWC", "CHW"),
    (0, 3, 1, 2): ("NCHW", "NHWC"),
    (2, 0, 1): ("CHW", "HWC"),
}
"""Maps a permutation of the expected axes to the name of the result and of the expected layout."""


@dataclass(frozen=True)
class Arrangement:
    """The expected values in an order that the actual ones may have."""

    mistake: Mistake | None
    """The mistake that gives this order; None for the order expected."""
    value: Tensor
    """The values, in the shape in which the actual memory is to be read."""


def arrangements(expected: Tensor, actual: Tensor) -> Iterator[Arrangement]:
    """Yields the orders that fit the shape of `actual`, the order expected first."""
    same_shape = expected.shape == actual.shape
    if same_shape:
        yield Arrangement(None, expected)
    yield from _permuted(expected, actual)
    if same_shape:
        for axis, size in enumerate(expected.shape):
            if size > 1:
                mistake = Mistake(
                    "flipped",
                    f"is flipped along axis {axis}",
                    "look for an image that is stored from the bottom up, or a mirrored one",
                )
                yield Arrangement(mistake, expected.flip(axis))
    else:
        mistake = Mistake(
            "shape",
            f"has the values expected in another shape: expected {list(expected.shape)}, got"
            f" {list(actual.shape)}",
            "give the shape of the reference",
        )
        yield Arrangement(mistake, expected.reshape(actual.shape))


def _permuted(expected: Tensor, actual: Tensor) -> Iterator[Arrangement]:
    rank = expected.dim()
    if rank > _MAX_RANK:
        return
    for axes in itertools.permutations(range(rank)):
        if axes == tuple(range(rank)):
            continue
        permuted = expected.permute(axes)
        if permuted.shape == actual.shape:
            yield Arrangement(_transposed(axes, permuted), permuted)
        elif expected.shape == actual.shape:
            # The shape is right, because the signature requires it; the memory is not.
            yield Arrangement(_misread(axes, permuted), permuted)


def _layouts(axes: tuple[int, ...], permuted: Tensor) -> tuple[str, str] | None:
    """Returns the names of the two layouts, if the axis that moved may be one of channels."""
    names = _LAYOUTS.get(axes)
    if names is None:
        return None
    channels = permuted.shape[-1] if names[0].endswith("C") else permuted.shape[-3]
    return names if channels <= MAX_CHANNELS else None


def _transposed(axes: tuple[int, ...], permuted: Tensor) -> Mistake:
    layouts = _layouts(axes, permuted)
    if layouts:
        return Mistake(
            "layout",
            f"is {layouts[0]}, expected {layouts[1]}",
            f"permute it to {layouts[1]} before the call",
        )
    return Mistake(
        "transposed",
        f"is transposed: its axes are the expected ones in the order {list(axes)}",
        "transpose it back before the call",
    )


def _misread(axes: tuple[int, ...], permuted: Tensor) -> Mistake:
    layouts = _layouts(axes, permuted)
    if layouts:
        return Mistake(
            "layout",
            f"has memory in the order {layouts[0]}, named as {layouts[1]}: its shape is right, its"
            " values are in another order",
            f"permute it to {layouts[1]}, or give strides, instead of naming the buffer so",
        )
    return Mistake(
        "transposed",
        f"has memory with its axes in the order {list(axes)}, named as if they were in order",
        "permute it, or give strides, instead of naming the buffer so",
    )
