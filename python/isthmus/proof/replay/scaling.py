"""Arrays that differ by a scale and an offset: ranges of values, means, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from isthmus.proof.replay.channels import MAX_CHANNELS, MIN_VALUES, RESIDUAL, by_channel
from isthmus.proof.replay.mistake import Mistake

__all__ = ["Fit", "find_fit", "wrong_scale"]

_RANGES = {255.0: "0 to 255", 1 / 255: "0 to 1", 127.5: "0 to 255", 1 / 127.5: "-1 to 1"}
"""Maps a factor to the range that the actual values probably have."""
_NORMALISATIONS = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Means and standard deviations of values from 0 to 1, by channel in the order R, G, B."""


@dataclass(frozen=True)
class Fit:
    """actual = factor * expected + offset, for each channel; one of each for a whole array."""

    factors: tuple[float, ...]
    offsets: tuple[float, ...]

    @property
    def is_identity(self) -> bool:
        """True when all factors are nearly 1 and all offsets nearly 0."""
        return all(abs(factor - 1) < 1e-2 for factor in self.factors) and all(
            abs(offset) < 1e-2 for offset in self.offsets
        )


def find_fit(expected: Tensor, actual: Tensor) -> Fit | None:
    """Fits one factor and offset to all values, else to each channel; None if neither fits."""
    if expected.numel() < MIN_VALUES:
        return None
    fit = _fit_rows(expected.reshape(1, -1), actual.reshape(1, -1))
    for axis, size in enumerate(expected.shape):
        if fit is not None:
            break
        if 2 <= size <= MAX_CHANNELS and expected.numel() // size >= MIN_VALUES:
            fit = _fit_rows(by_channel(expected, axis), by_channel(actual, axis))
    return fit


def wrong_scale(fit: Fit) -> Mistake:
    """Names the mistake that a fit shows."""
    known = _normalisation(fit)
    if known is not None:
        return known
    factors, offsets = _numbers(fit.factors), _numbers(fit.offsets)
    no_offset = all(abs(offset) < 1e-2 * max(1.0, abs(fit.factors[0])) for offset in fit.offsets)
    if len(fit.factors) == 1 and no_offset:
        factor = fit.factors[0]
        range_ = next((text for value, text in _RANGES.items() if _near(factor, value)), "")
        meaning = f"; its values seem to run from {range_}" if range_ else ""
        return Mistake(
            "scale",
            f"is {factors} times what was expected{meaning}",
            f"multiply it by {1 / factor:.6g}",
        )
    if all(abs(factor - 1) < 1e-3 for factor in fit.factors):
        return Mistake(
            "mean",
            f"is what was expected plus {offsets}",
            "subtract the mean that the reference subtracts, once",
        )
    return Mistake(
        "scale",
        f"is what was expected times {factors} plus {offsets}"
        f"{'' if len(fit.factors) == 1 else ', by channel'}",
        "scale and shift it as the reference does",
    )


def _fit_rows(a: Tensor, b: Tensor) -> Fit | None:
    """Fits each row of `b` to that of `a` by least squares; None if the residual is too large."""
    mean_a, mean_b = a.mean(dim=1, keepdim=True), b.mean(dim=1, keepdim=True)
    spread = (a - mean_a).square().sum(dim=1, keepdim=True)
    if bool((spread == 0).any()):
        return None
    factor = ((a - mean_a) * (b - mean_b)).sum(dim=1, keepdim=True) / spread
    offset = mean_b - factor * mean_a
    residual = (b - factor * a - offset).square().mean().sqrt()
    scale = (b - mean_b).square().mean().sqrt()
    if float(scale) == 0 or float(residual / scale) > RESIDUAL or bool((factor == 0).any()):
        return None
    return Fit(tuple(factor.flatten().tolist()), tuple(offset.flatten().tolist()))


def _normalisation(fit: Fit) -> Mistake | None:
    """Names the normalisation of a known data set that was left out or applied by mistake."""
    if len(fit.factors) != 3:
        return None
    for name, (means, deviations) in _NORMALISATIONS.items():
        for order, channels in ((1, "R, G, B"), (-1, "B, G, R")):
            mean, deviation = means[::order], deviations[::order]
            for top in (1.0, 255.0):
                if _all_near(fit.factors, [top * d for d in deviation]) and _all_near(
                    fit.offsets, [top * m for m in mean]
                ):
                    return Mistake(
                        "scale",
                        f"is not normalised: expected the mean and standard deviation of {name}"
                        f" taken out (channels {channels}), got values from 0 to {top:g}",
                        "subtract the mean and divide by the standard deviation, by channel"
                        + ("" if top == 1 else ", after a division by 255"),
                    )
                if _all_near(fit.factors, [1 / (top * d) for d in deviation]) and _all_near(
                    fit.offsets, [-m / d for m, d in zip(mean, deviation, strict=True)]
                ):
                    return Mistake(
                        "scale",
                        f"is normalised with the mean and standard deviation of {name} (channels"
                        f" {channels}), expected values from 0 to {top:g}",
                        "leave the normalisation out: the model does it itself",
                    )
    return None


def _all_near(values: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(_near(a, b) for a, b in zip(values, wanted, strict=True))


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= 5e-3 * abs(wanted)


def _numbers(values: Sequence[float]) -> str:
    texts = [f"{value:.4g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
