"""Differences between arrays of numbers: layout, order of channels, scale and mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Found = tuple[str, str, str]
"""Kind, sentence, remedy."""

_MOST_CHANNELS = 16
"""An axis of more is no axis of channels."""
_LEAST_SLICE = 16
"""Elements that a channel must have before a fit of two numbers to it proves anything."""
_MOST_RANK = 5
_RESIDUAL = 2e-3
"""What a fit may leave, as a share of the spread: half precision leaves less, others more."""
_ROUNDING = 1e-3
"""The same for values that are taken for the same, rounded."""
_SCALES = {255.0: "0 to 255", 1 / 255: "0 to 1", 127.5: "0 to 255", 1 / 127.5: "-1 to 1"}
_KNOWN = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Means and standard deviations, by channel in the order R, G, B, of values from 0 to 1."""


@dataclass(frozen=True)
class _Fit:
    """actual = factor * expected + offset, by channel; one of each where all channels agree."""

    factors: tuple[float, ...]
    offsets: tuple[float, ...]

    @property
    def is_identity(self) -> bool:
        return all(abs(factor - 1) < 1e-2 for factor in self.factors) and all(
            abs(offset) < 1e-2 for offset in self.offsets
        )


@dataclass(frozen=True)
class _Arrangement:
    """The expected values in another order, which is the order of a common mistake."""

    kind: str
    """Empty for the order expected."""
    sentence: str
    remedy: str
    value: Tensor
    """In the shape that the memory which came is to be read in."""


def image_difference(expected: Tensor, actual: Tensor) -> Found | None:
    """Names the arrangement, order of channels and scale that turn one array into the other.

    Args:
        expected: Of numbers, of any shape.
        actual: Of the same number of elements.

    Returns:
        None where no combination of them does.
    """
    if expected.numel() != actual.numel() or expected.numel() < 2 or expected.is_complex():
        return None
    a, b = expected.to(torch.float64), actual.to(torch.float64)
    if not bool(a.isfinite().all()) or not bool(b.isfinite().all()):
        return None
    best: Found | None = None
    fewest = 4
    for arrangement in _arrangements(a, b):
        parts = _explain(arrangement, b)
        if parts is None or len(parts) >= fewest:
            continue
        fewest = len(parts)
        kinds, sentences, remedies = zip(*parts, strict=True)
        best = (" + ".join(kinds), "; ".join(sentences), "; ".join(remedies))
        if fewest == 1:
            break
    return best


def _explain(arrangement: _Arrangement, actual: Tensor) -> list[Found] | None:
    """The parts of the explanation by this arrangement; None where it is none."""
    parts = (
        [(arrangement.kind, arrangement.sentence, arrangement.remedy)] if arrangement.kind else []
    )
    value = arrangement.value
    actual = actual.reshape(value.shape)
    if _residual(value, actual) <= _ROUNDING:
        return parts or [_rounded(value, actual)]
    order = _channel_order(value, actual)
    if order is not None:
        axis, places = order
        value = value.index_select(axis, torch.tensor(places))
        parts.append(_swapped(axis, places, value.shape[axis]))
        if _residual(value, actual) <= _ROUNDING:
            return parts
    fit = _fit(value, actual)
    if fit is None:
        return None
    if not fit.is_identity:
        parts.append(_scaled(fit))
    return parts or [_rounded(value, actual)]


def _arrangements(expected: Tensor, actual: Tensor) -> Iterator[_Arrangement]:
    """Ways in which the same values may lie, the order expected first."""
    shape = tuple(actual.shape)
    if tuple(expected.shape) == shape:
        yield _Arrangement("", "", "", expected)
    rank = expected.dim()
    if rank <= _MOST_RANK:
        for axes in itertools.permutations(range(rank)):
            if axes == tuple(range(rank)):
                continue
            moved = expected.permute(axes)
            if tuple(moved.shape) == shape:
                yield _transposed(axes, moved)
            if tuple(expected.shape) == shape and tuple(moved.shape) != shape:
                # The shape is right, since the signature wants it; the memory is not.
                yield _misread(axes, moved)
    if tuple(expected.shape) == shape:
        for axis in range(rank):
            if shape[axis] > 1:
                yield _Arrangement(
                    "flipped",
                    f"is flipped along axis {axis}",
                    "look for an image that is stored from the bottom up, or a mirrored one",
                    expected.flip(axis),
                )
    else:
        yield _Arrangement(
            "shape",
            f"has the values expected in another shape: expected {list(expected.shape)}, got"
            f" {list(shape)}",
            "give the shape of the reference",
            expected.reshape(shape),
        )


_NAMED = {
    (0, 2, 3, 1): ("NHWC", "NCHW"),
    (1, 2, 0): ("HWC", "CHW"),
    (0, 3, 1, 2): ("NCHW", "NHWC"),
    (2, 0, 1): ("CHW", "HWC"),
}
"""By the axes that make it of the expected one: the layout that came, and the one expected."""


def _named(axes: tuple[int, ...], moved: Tensor) -> tuple[str, str] | None:
    """The layouts' names, where the axis that moved may be one of channels."""
    names = _NAMED.get(axes)
    if names is None:
        return None
    channels = moved.shape[-1] if names[0].endswith("C") else moved.shape[-3]
    return names if channels <= _MOST_CHANNELS else None


def _transposed(axes: tuple[int, ...], moved: Tensor) -> _Arrangement:
    names = _named(axes, moved)
    if names:
        return _Arrangement(
            "layout",
            f"is {names[0]}, expected {names[1]}",
            f"permute it to {names[1]} before the call",
            moved,
        )
    return _Arrangement(
        "transposed",
        f"is transposed: its axes are the expected ones in the order {list(axes)}",
        "transpose it back before the call",
        moved,
    )


def _misread(axes: tuple[int, ...], moved: Tensor) -> _Arrangement:
    names = _named(axes, moved)
    if names:
        return _Arrangement(
            "layout",
            f"has memory in the order {names[0]}, named as {names[1]}: its shape is right, its"
            " values are in another order",
            f"permute it to {names[1]}, or give strides, instead of naming the buffer so",
            moved,
        )
    return _Arrangement(
        "transposed",
        f"has memory with its axes in the order {list(axes)}, named as if they were in order",
        "permute it, or give strides, instead of naming the buffer so",
        moved,
    )


def _residual(expected: Tensor, actual: Tensor) -> float:
    """RMS difference as a share of the spread of what was expected."""
    spread = float(expected.std(correction=0)) or float(expected.abs().max()) or 1.0
    return float((actual - expected).square().mean().sqrt()) / spread


def _rounded(expected: Tensor, actual: Tensor) -> Found:
    most = float((actual - expected).abs().max())
    return (
        "rounding",
        f"is the input expected, rounded: it differs by {most:.3g} at most",
        "",
    )


def _channel_order(expected: Tensor, actual: Tensor) -> tuple[int, list[int]] | None:
    """Axis and places of `expected` that make the order of `actual`; None where that is not it."""
    for axis, size in enumerate(expected.shape):
        if not 2 <= size <= _MOST_CHANNELS:
            continue
        a, b = _by_channel(expected, axis), _by_channel(actual, axis)
        if a.shape[1] < _LEAST_SLICE:
            places = _equal_places(a, b)
        else:
            likeness = _correlation(b, a)
            places = [int(one) for one in likeness.argmax(dim=1)]
            if float(likeness.max(dim=1).values.min()) < 1 - _RESIDUAL**2:
                continue
        if places is None or sorted(places) != list(range(size)) or places == list(range(size)):
            continue
        return axis, places
    return None


def _equal_places(a: Tensor, b: Tensor) -> list[int] | None:
    places = []
    for row in b:
        same = [at for at, one in enumerate(a) if torch.equal(one, row)]
        if len(same) != 1:
            return None
        places.append(same[0])
    return places


def _by_channel(value: Tensor, axis: int) -> Tensor:
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of each row of one with each of the other; 0 where a row is constant."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = a.norm(dim=1)[:, None] * b.norm(dim=1)[None, :]
    return torch.where(norms > 0, (a @ b.T) / norms.clamp_min(1e-300), torch.zeros_like(norms))


def _swapped(axis: int, places: list[int], size: int) -> Found:
    if size == 3 and places == [2, 1, 0]:
        what = "BGR, expected RGB (or the other way round)"
    elif size == 4 and places == [2, 1, 0, 3]:
        what = "BGRA, expected RGBA (or the other way round)"
    else:
        what = f"the expected ones in the order {places}"
    if axis == 0 and size != 3:
        return (
            "order of rows",
            f"has the entries of axis 0 in another order: {places}",
            "keep the order of the batch on both sides",
        )
    return (
        "swapped channels",
        f"has its channels (axis {axis}) swapped: {what}",
        "put the channels in the order that the reference has",
    )


def _fit(expected: Tensor, actual: Tensor) -> _Fit | None:
    """A factor and an offset, of all or by channel, that turn one into the other."""
    if expected.numel() < _LEAST_SLICE:
        return None
    whole = _fit_rows(expected.reshape(1, -1), actual.reshape(1, -1))
    if whole is not None:
        return whole
    for axis, size in enumerate(expected.shape):
        if not 2 <= size <= _MOST_CHANNELS or expected.numel() // size < _LEAST_SLICE:
            continue
        found = _fit_rows(_by_channel(expected, axis), _by_channel(actual, axis))
        if found is not None:
            return found
    return None


def _fit_rows(a: Tensor, b: Tensor) -> _Fit | None:
    mean_a, mean_b = a.mean(dim=1, keepdim=True), b.mean(dim=1, keepdim=True)
    spread = (a - mean_a).square().sum(dim=1, keepdim=True)
    if bool((spread == 0).any()):
        return None
    factor = ((a - mean_a) * (b - mean_b)).sum(dim=1, keepdim=True) / spread
    offset = mean_b - factor * mean_a
    left = (b - factor * a - offset).square().mean().sqrt()
    scale = (b - mean_b).square().mean().sqrt()
    if float(scale) == 0 or float(left / scale) > _RESIDUAL or bool((factor == 0).any()):
        return None
    return _Fit(tuple(factor.flatten().tolist()), tuple(offset.flatten().tolist()))


def _scaled(fit: _Fit) -> Found:
    known = _known_normalisation(fit)
    if known:
        return known
    factors, offsets = _numbers(fit.factors), _numbers(fit.offsets)
    plain = all(abs(offset) < 1e-2 * max(1.0, abs(fit.factors[0])) for offset in fit.offsets)
    if len(fit.factors) == 1 and plain:
        target = next((text for value, text in _SCALES.items() if _near(fit.factors[0], value)), "")
        meaning = f": {target} came, it seems" if target else ""
        return (
            "scale",
            f"is {factors} times what was expected{meaning}",
            f"multiply it by {1 / fit.factors[0]:.6g}",
        )
    if all(abs(factor - 1) < 1e-3 for factor in fit.factors):
        return (
            "mean",
            f"is what was expected plus {offsets}",
            "subtract the mean that the reference subtracts, once",
        )
    return (
        "scale",
        f"is what was expected times {factors} plus {offsets}"
        f"{'' if len(fit.factors) == 1 else ', by channel'}",
        "scale and shift it as the reference does",
    )


def _known_normalisation(fit: _Fit) -> Found | None:
    """Mean and standard deviation of a known data set that were left out, or applied in vain."""
    if len(fit.factors) != 3:
        return None
    for name, (means, deviations) in _KNOWN.items():
        for order, channels in ((1, "R, G, B"), (-1, "B, G, R")):
            mean, deviation = means[::order], deviations[::order]
            for top in (1.0, 255.0):
                if _all_near(fit.factors, [top * one for one in deviation]) and _all_near(
                    fit.offsets, [top * one for one in mean]
                ):
                    return (
                        "scale",
                        f"is not normalised: expected the mean and standard deviation of {name}"
                        f" taken out (channels {channels}), got values from 0 to {top:g}",
                        "subtract the mean and divide by the standard deviation, by channel"
                        + ("" if top == 1 else ", after a division by 255"),
                    )
                if _all_near(fit.factors, [1 / (top * one) for one in deviation]) and _all_near(
                    fit.offsets, [-m / d for m, d in zip(mean, deviation, strict=True)]
                ):
                    return (
                        "scale",
                        f"is normalised with the mean and standard deviation of {name} (channels"
                        f" {channels}), expected values from 0 to {top:g}",
                        "leave the normalisation out: the model does it itself",
                    )
    return None


def _all_near(values: tuple[float, ...], wanted: list[float]) -> bool:
    return all(_near(a, b) for a, b in zip(values, wanted, strict=True))


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= 5e-3 * abs(wanted)


def _numbers(values: tuple[float, ...]) -> str:
    texts = [f"{value:.4g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
