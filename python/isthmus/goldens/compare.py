"""Compares outputs with their reference: the numbers and the verdict of an output.

The rule is `isthmus::compare` (cpp/include/isthmus/parity.h), for both Python and C++.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import NoiseFloor, Tolerance

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OutputParity:
    """The comparison of one output of one golden with its reference; truthy when it passed."""

    output: str
    golden: str = ""
    passed: bool = False
    reason: str = ""
    """The reason why it failed, or why there is no number; empty when it passed."""
    max_abs: float = 0.0
    """The largest |actual - reference| over the elements that are finite on both sides."""
    max_rel: float = 0.0
    """The largest |actual - reference| / |reference| where the reference is not 0."""
    noise_units: float = 0.0
    """The error in units of eager's own: the RMS error to float64 where that is known, else max_abs
    divided by the noise floor; 0 where there is no noise floor."""
    cosine: float = 1.0
    """The cosine similarity to the reference."""
    nan_mismatches: int = 0
    """The number of elements that are NaN on one side only."""
    inf_mismatches: int = 0
    """The number of elements that are infinite on one side only, or with another sign."""
    nans: int = 0
    """The number of NaN elements of the actual output."""
    infs: int = 0
    """The number of infinite elements of the actual output."""
    argmax_agreement: float = 1.0
    """The share of rows (last axis) whose largest element is at the same place."""
    topk_agreement: float = 1.0
    """The share of rows whose five largest elements are the reference's; near ties are equal."""
    atol: float = 0.0
    rtol: float = 0.0
    passing_atol: float = 0.0
    """The absolute tolerance that would pass with this rtol."""
    elements: int = 0
    to_truth: bool = False
    """True when it was judged by its error to float64; the fields below are set then."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """The output's error to float64 by statistic: max, rms, p99, median, bias, cosine."""
    own: Mapping[str, float] = field(default_factory=dict)
    """Eager's own error to float64, at least one unit in the last place."""
    allowed: Mapping[str, float] = field(default_factory=dict)
    """The allowed error; infinite for a statistic that is not judged."""
    statistic: str = ""
    """The statistic that is nearest to failing."""
    multiple: float = 0.0
    """The error of that statistic as a multiple of eager's own; this multiple would pass."""
    strain: float = 0.0
    """The needed tolerance as a share of the allowed one; above 1 it failed."""

    def __bool__(self) -> bool:
        """Returns True when it passed."""
        return self.passed


def worst(results: Iterable[OutputParity]) -> OutputParity | None:
    """Returns the result that is nearest to failing, failures first; None without results."""
    return max(
        results, key=lambda result: (not result.passed, result.strain, result.max_abs), default=None
    )


def describe(value: Tensor | None) -> str:
    """Returns dtype and shape for messages, such as "float32[2, 14]"."""
    if value is None:
        return "nothing (None)"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def compare(
    output: str,
    reference: Tensor | None,
    actual: Tensor | None,
    tolerance: Tolerance,
    noise: NoiseFloor | None = None,
    own_error: Tensor | None = None,
    *,
    golden: str = "",
) -> OutputParity:
    """Compares one output with its reference, in float64.

    Args:
        output: The name of the output.
        reference: The expected output; None when it is to be absent.
        actual: The output of the engine.
        tolerance: The allowed error. Integers and booleans must always be equal.
        noise: The noise floor of the output.
        own_error: The reference minus eager's output in float64, in the reference's shape. With it,
            and multiples in the tolerance, the output is judged by its error to float64.
        golden: The name of the golden, for the result.
    """
    if reference is None and actual is None:
        return OutputParity(output, golden, True, atol=tolerance.atol, rtol=tolerance.rtol)
    if (
        reference is None
        or actual is None
        or reference.dtype != actual.dtype
        or reference.shape != actual.shape
    ):
        return OutputParity(
            output,
            golden,
            reason=f"expected {describe(reference)}, got {describe(actual)}",
            atol=tolerance.atol,
            rtol=tolerance.rtol,
            passing_atol=math.inf,
            strain=math.inf,
        )
    from isthmus import _core

    numbers = _core.compare(
        output,
        _plain(reference),
        _plain(actual),
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        noise=None if noise is None else noise.max_abs,
        own_error=None if own_error is None else _plain(own_error),
        multiples=dict(tolerance.multiples),
        allowance=dict(tolerance.allowance),
        own=dict(tolerance.own),
    )
    values = {name: getattr(numbers, name) for name in _NUMBERS}
    return OutputParity(golden=golden, atol=tolerance.atol, rtol=tolerance.rtol, **values)


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """Returns the largest |a - b|, which is 0 only for equal tensors; NaN is equal to NaN.

    It is infinite when dtype, shape, presence or the places of NaN and infinity differ.
    """
    result = compare("", a, b, Tolerance(0.0, 0.0))
    if result.passed:
        return 0.0
    # Integers beyond 2**53 can differ and still have no difference in float64.
    return result.max_abs if math.isfinite(result.passing_atol) and result.max_abs else math.inf


def error_statistics(
    reference: Tensor, actual: Tensor, own_error: Tensor | None = None
) -> dict[str, float]:
    """Returns the statistics of an output's error to float64; empty where it has none.

    Args:
        reference: The output of eager.
        actual: The output to judge, of the same dtype and shape.
        own_error: The reference minus eager's output in float64; None for an exact reference.
    """
    import torch

    own = torch.zeros_like(reference) if own_error is None else own_error
    result = compare("", reference, actual, Tolerance(math.inf, 0.0, {"max": math.inf}), None, own)
    return dict(result.errors) if result.to_truth else {}


def _plain(tensor: Tensor) -> Tensor:
    """Returns a tensor on the CPU without gradient, with lazy conjugation and negation applied."""
    return tensor.detach().resolve_conj().resolve_neg().cpu()


_NUMBERS = [
    field.name for field in fields(OutputParity) if field.name not in ("golden", "atol", "rtol")
]
