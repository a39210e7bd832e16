"""Outputs against their reference: the numbers and the verdict of one output.

The rule is `isthmus::compare` (cpp/include/isthmus/parity.h), for Python and C++ alike.
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
    """One output of one golden against its reference; truthy when it passed."""

    output: str
    golden: str = ""
    passed: bool = False
    reason: str = ""
    """Why it failed, or why there is no number; empty when it passed."""
    max_abs: float = 0.0
    """Largest |actual - reference| over the elements finite on both sides."""
    max_rel: float = 0.0
    """Largest |actual - reference| / |reference| where the reference is not 0."""
    noise_units: float = 0.0
    """The error in units of eager's own: RMS to the truth where that is known; else max_abs over
    the noise floor's; 0 where there is none."""
    cosine: float = 1.0
    nan_mismatches: int = 0
    """Elements NaN on one side only."""
    inf_mismatches: int = 0
    """Elements infinite on one side only, or with another sign."""
    nans: int = 0
    """NaN elements of the actual output."""
    infs: int = 0
    argmax_agreement: float = 1.0
    """Share of rows (last axis) whose largest element is at the same place."""
    topk_agreement: float = 1.0
    """Share of rows whose five largest are the reference's, near ties being equal."""
    atol: float = 0.0
    rtol: float = 0.0
    passing_atol: float = 0.0
    """The atol that would pass with this rtol."""
    elements: int = 0
    to_truth: bool = False
    """Judged by its error to float64, and what follows is set."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """By statistic ("max", "rms", "p99", "median", "bias", "cosine"): of the output, to float64."""
    own: Mapping[str, float] = field(default_factory=dict)
    """The same of eager in the golden's precision, at least one unit in the last place."""
    allowed: Mapping[str, float] = field(default_factory=dict)
    """The same, what is allowed; infinite where a statistic is not judged."""
    statistic: str = ""
    """The one that is nearest to failing."""
    multiple: float = 0.0
    """Its error as a multiple of eager's own: the multiple that would pass."""
    strain: float = 0.0
    """The needed tolerance as a share of the one given: above 1 it failed."""

    def __bool__(self) -> bool:
        """The verdict."""
        return self.passed


def worst(results: Iterable[OutputParity]) -> OutputParity | None:
    """The result that comes nearest to failing, failures first; None when there is none."""
    return max(
        results, key=lambda result: (not result.passed, result.strain, result.max_abs), default=None
    )


def describe(value: Tensor | None) -> str:
    """ "float32[2, 14]", for messages."""
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
        output: Its name.
        reference: What it should be; None where the output is absent.
        actual: What came.
        tolerance: Integers and booleans must be equal whatever it says.
        noise: The noise floor.
        own_error: Reference minus truth, in the reference's shape: how far eager itself is from
            float64. With it, and multiples in the tolerance, the output is judged to the truth.
        golden: Name of the golden, to be carried along.
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

    found = _core.compare(
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
    values = {one: getattr(found, one) for one in _FOUND}
    return OutputParity(golden=golden, atol=tolerance.atol, rtol=tolerance.rtol, **values)


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """Largest |a - b|: 0 when the two are equal element by element, NaN being equal to NaN.

    Infinite where dtype, shape, presence or the places of NaN and infinity differ.
    """
    found = compare("", a, b, Tolerance(0.0, 0.0))
    if found.passed:
        return 0.0
    # Whole numbers beyond 2**53 can differ and still have no difference in float64.
    return found.max_abs if math.isfinite(found.passing_atol) and found.max_abs else math.inf


def error_statistics(
    reference: Tensor, actual: Tensor, own_error: Tensor | None = None
) -> dict[str, float]:
    """The statistics of an output's error to the truth; empty where there is nothing to tell.

    Args:
        reference: What eager gave.
        actual: What came, in the same type and shape.
        own_error: Reference minus truth; None to take the reference for the truth.
    """
    import torch

    own = torch.zeros_like(reference) if own_error is None else own_error
    found = compare("", reference, actual, Tolerance(math.inf, 0.0, {"max": math.inf}), None, own)
    return dict(found.errors) if found.to_truth else {}


def _plain(tensor: Tensor) -> Tensor:
    """Without gradient, on the CPU, and with the values that its lazy bits stand for."""
    return tensor.detach().resolve_conj().resolve_neg().cpu()


_FOUND = [
    field.name for field in fields(OutputParity) if field.name not in ("golden", "atol", "rtol")
]
