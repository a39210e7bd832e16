"""Names the kind of difference between an input and the one expected.

The kinds are the mistakes that programs make when they fill a buffer. Each is tried on the values,
the simplest first, and is reported only if it fits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from isthmus.goldens.compare import describe
from isthmus.proof.replay.buffers import wrong_type
from isthmus.proof.replay.images import image_difference
from isthmus.proof.replay.mistake import Mistake
from isthmus.proof.replay.tokens import token_difference

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InputDifference:
    """One input against the one expected; truthy when they are the same."""

    name: str
    kind: str
    """The kind: "same", "rounding", "missing", "unexpected", "dtype", "shape", "layout",
    "reinterpreted bytes", "transposed", "swapped channels", "flipped", "scale", "mean", "constant",
    "not finite", "padding side", "padding", "special tokens", "shifted tokens", "off-by-one ids",
    "off-by ids", "inverted mask", "mask ignored", "order of rows" or "other"; several are joined
    by " + "."""
    sentence: str
    """The description of the difference; its subject is the name of the input."""
    remedy: str = ""
    """The change to make in the program that gave the input."""

    def __bool__(self) -> bool:
        """Returns True if the input is the one expected, apart from rounding."""
        return self.kind in ("same", "rounding")

    def to_json(self) -> dict[str, Any]:
        """Returns the difference as JSON data."""
        return {**asdict(self), "same": bool(self)}


def input_difference(name: str, expected: Tensor | None, actual: Tensor | None) -> InputDifference:
    """Names the kind of difference between two values of an input.

    Args:
        name: The name of the input.
        expected: The reference's value; None if it has no such input.
        actual: The program's value; None if it gave none.
    """
    if expected is None or actual is None:
        return _one_sided(name, expected, actual)
    expected, actual = expected.detach().cpu(), actual.detach().cpu()
    if actual.dtype == expected.dtype and torch.equal(actual, expected):
        return InputDifference(name, "same", "is the input expected, bit for bit")
    if actual.shape == expected.shape and _equal_with_nan(expected, actual):
        if actual.dtype == expected.dtype:
            return InputDifference(name, "same", "is the input expected, NaN included")
        return InputDifference(
            name,
            "dtype",
            f"has the values expected as another type: expected {describe(expected)}, got"
            f" {describe(actual)}",
            "convert it to the type of the signature",
        )
    return InputDifference(name, *(_mistake(expected, actual) or _unlike(expected, actual)))


def _mistake(expected: Tensor, actual: Tensor) -> Mistake | None:
    """Returns the first mistake that explains the difference."""
    reinterpreted = wrong_type(expected, actual)
    if reinterpreted is not None:
        return reinterpreted
    integers = not expected.is_floating_point() and not actual.is_floating_point()
    if integers and expected.dtype != torch.uint8:
        tokens = token_difference(expected, actual)
        if tokens is not None:
            return tokens
    constant = _constant(actual)
    if constant is not None and _constant(expected) is None:
        return Mistake(
            "constant",
            f"is {constant:.6g} everywhere, where {_range(expected)} was expected",
            "the buffer was never filled, or was cleared before the call",
        )
    bad = int((~actual.isfinite()).sum()) - int((~expected.isfinite()).sum())
    if bad > 0:
        return Mistake(
            "not finite",
            f"has {bad} more elements that are NaN or infinite than expected, of {actual.numel()}",
            "memory that was freed or never filled, or a division by zero before the call",
        )
    image = image_difference(expected, actual)
    if image is None and actual.shape != expected.shape:
        return Mistake(
            "shape",
            f"has another shape: expected {describe(expected)}, got {describe(actual)}, and not"
            " the same values in another order",
            "give the same data on both sides, then compare again",
        )
    return image


def _one_sided(name: str, expected: Tensor | None, actual: Tensor | None) -> InputDifference:
    if expected is None and actual is None:
        return InputDifference(name, "same", "is given by neither side")
    if actual is None:
        return InputDifference(
            name,
            "missing",
            f"was not given; expected {describe(expected)}",
            "give it: the model then uses its default, which is another answer",
        )
    return InputDifference(
        name,
        "unexpected",
        f"was given as {describe(actual)}; the reference has no such input",
        "leave it out, or add it to the reference",
    )


def _equal_with_nan(a: Tensor, b: Tensor) -> bool:
    a, b = a.to(torch.float64), b.to(torch.float64)
    return bool(torch.equal(a.nan_to_num(0.0), b.nan_to_num(0.0))) and bool(
        torch.equal(a.isnan(), b.isnan())
    )


def _constant(value: Tensor) -> float | None:
    """Returns the value that all elements have; None if they differ."""
    if value.numel() < 2:
        return None
    first = value.flatten()[0]
    return float(first) if bool((value == first).all()) else None


def _range(value: Tensor) -> str:
    wide = value.to(torch.float64)
    wide = wide[wide.isfinite()]
    if not wide.numel():
        return "nothing finite"
    return f"{float(wide.min()):.4g} to {float(wide.max()):.4g} (mean {float(wide.mean()):.4g})"


def _unlike(expected: Tensor, actual: Tensor) -> Mistake:
    different = (actual != expected).to(torch.float64).mean()
    most = (actual.to(torch.float64) - expected.to(torch.float64)).abs().nan_to_num(0.0).max()
    return Mistake(
        "other",
        f"differs in {float(different):.1%} of its elements, by {float(most):.4g} at most, and in"
        f" no way that is known: expected {_range(expected)}, got {_range(actual)}",
        "compare the steps that fill it, one by one, with those of the reference",
    )
