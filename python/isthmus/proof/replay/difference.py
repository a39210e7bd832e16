"""What kind of difference lies between the input that was expected and the one that came.

The kinds are the mistakes that programs make when they fill a buffer. Each is tried on the values,
the simplest first; what fits is told, and nothing is told that does not fit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from isthmus.goldens.compare import describe
from isthmus.proof.replay.buffers import same_bytes_as
from isthmus.proof.replay.images import image_difference
from isthmus.proof.replay.tokens import token_difference

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InputDifference:
    """One input against the one expected; truthy when they are the same."""

    name: str
    kind: str
    """"same", "rounding", "missing", "unexpected", "dtype", "shape", "reinterpreted bytes",
    "layout", "transposed", "swapped channels", "flipped", "scale", "mean", "constant", "not
    finite", "padding side", "padding", "special tokens", "shifted tokens", "off-by-one ids",
    "off-by ids", "inverted mask", "mask ignored", "order of rows" or "other"; several are joined
    by " + "."""
    sentence: str
    """What was found, for people."""
    remedy: str = ""
    """What to do in the program that gave the input."""

    def __bool__(self) -> bool:
        """Whether the input is the one expected, rounding aside."""
        return self.kind in ("same", "rounding")

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {**asdict(self), "same": bool(self)}


def input_difference(name: str, expected: Tensor | None, actual: Tensor | None) -> InputDifference:
    """Names the kind of difference between two values of an input.

    Args:
        name: Of the input.
        expected: What the reference has; None where it has no such input.
        actual: What the program gave; None where it gave none.
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
    found = _first(name, expected, actual)
    return found if found is not None else _unlike(name, expected, actual)


def _first(name: str, expected: Tensor, actual: Tensor) -> InputDifference | None:
    """The first kind that explains it."""
    as_bytes = same_bytes_as(expected, actual)
    if as_bytes is not None:
        return InputDifference(name, "reinterpreted bytes", *as_bytes)
    whole = not expected.is_floating_point() and not actual.is_floating_point()
    if whole and expected.dtype != torch.uint8:
        found = token_difference(expected, actual)
        if found:
            return InputDifference(name, *found)
    constant = _constant(actual)
    if constant is not None and _constant(expected) is None:
        return InputDifference(
            name,
            "constant",
            f"is {constant:.6g} everywhere, where {_range(expected)} was expected",
            "the buffer was never filled, or was cleared before the call",
        )
    bad = int((~actual.isfinite()).sum()) - int((~expected.isfinite()).sum())
    if bad > 0:
        return InputDifference(
            name,
            "not finite",
            f"has {bad} more elements that are NaN or infinite than expected, of {actual.numel()}",
            "memory that was freed or never filled, or a division by zero before the call",
        )
    found = image_difference(expected, actual)
    if found:
        return InputDifference(name, *found)
    if actual.shape != expected.shape:
        return InputDifference(
            name,
            "shape",
            f"has another shape: expected {describe(expected)}, got {describe(actual)}, and not"
            " the same values in another order",
            "give the same data on both sides, then compare again",
        )
    return None


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
    """The value of every element, where it is one."""
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


def _unlike(name: str, expected: Tensor, actual: Tensor) -> InputDifference:
    different = (actual != expected).to(torch.float64).mean()
    most = (actual.to(torch.float64) - expected.to(torch.float64)).abs().nan_to_num(0.0).max()
    return InputDifference(
        name,
        "other",
        f"differs in {float(different):.1%} of its elements, by {float(most):.4g} at most, and in"
        f" no way that is known: expected {_range(expected)}, got {_range(actual)}",
        "compare the steps that fill it, one by one, with those of the reference",
    )
