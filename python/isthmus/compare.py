"""Outputs against their reference: the numbers and the verdict of one output.

The same rules as `isthmus::compare` in C++ (cpp/include/isthmus/parity.h), for what runs in Python;
a test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.manifest import NoiseFloor, Tolerance

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
    """max_abs in units of the noise floor; 0 where there is none."""
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
    atol: float = 0.0
    rtol: float = 0.0
    passing_atol: float = 0.0
    """The atol that would pass with this rtol."""
    elements: int = 0

    def __bool__(self) -> bool:
        """The verdict."""
        return self.passed

    @property
    def strain(self) -> float:
        """The needed tolerance as a share of the one given: above 1 it failed."""
        if self.atol > 0:
            return self.passing_atol / self.atol
        return 0.0 if self.passing_atol == 0 else math.inf


def worst(results: Iterable[OutputParity]) -> OutputParity | None:
    """The result that comes nearest to failing, failures first; None when there is none."""
    return max(results, key=lambda one: (not one.passed, one.strain, one.max_abs), default=None)


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
    *,
    golden: str = "",
) -> OutputParity:
    """Compares one output with its reference, in float64.

    Args:
        output: Its name.
        reference: What it should be; None where the output is absent.
        actual: What came.
        tolerance: |actual - reference| <= atol + rtol * |reference|; integers and booleans must be
            equal whatever it says.
        noise: The noise floor, for `noise_units`.
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
        )
    return _compare_values(output, reference, actual, tolerance, noise, golden)


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """Largest |a - b|: 0 when the two are equal element by element, NaN being equal to NaN.

    Infinite where dtype, shape, presence or the places of NaN and infinity differ.
    """
    found = compare("", a, b, Tolerance(0.0, 0.0))
    if found.passed:
        return 0.0
    # Whole numbers beyond 2**53 can differ and still have no difference in float64.
    return found.max_abs if math.isfinite(found.passing_atol) and found.max_abs else math.inf


def _compare_values(
    output: str,
    reference: Tensor,
    actual: Tensor,
    tolerance: Tolerance,
    noise: NoiseFloor | None,
    golden: str,
) -> OutputParity:
    import torch

    exact = not (reference.is_floating_point() or reference.is_complex())
    wide = torch.complex128 if reference.is_complex() else torch.float64
    expected = reference.detach().cpu().to(wide).flatten()
    got = actual.detach().cpu().to(wide).flatten()
    nan_expected, nan_got = expected.isnan(), got.isnan()
    inf_expected, inf_got = expected.isinf(), got.isinf()
    nan_mismatches = int((nan_expected != nan_got).sum())
    both_infinite = inf_expected & inf_got
    inf_mismatches = int(((inf_expected != inf_got) & ~nan_expected & ~nan_got).sum())
    inf_mismatches += int((both_infinite & (expected != got)).sum())

    finite = expected.isfinite() & got.isfinite()
    left, right = expected[finite], got[finite]
    error = (right - left).abs()
    size = left.abs()
    max_abs = float(error.max()) if error.numel() else 0.0
    nonzero = size > 0
    max_rel = float((error[nonzero] / size[nonzero]).max()) if bool(nonzero.any()) else 0.0
    passing = float((error - tolerance.rtol * size).max().clamp(min=0)) if error.numel() else 0.0

    reason = ""
    if nan_mismatches:
        reason = f"{nan_mismatches} of {got.numel()} elements are NaN on one side only"
    elif inf_mismatches:
        reason = f"{inf_mismatches} of {got.numel()} elements are infinite on one side only"
    elif exact and not torch.equal(reference.cpu(), actual.cpu()):
        wrong = int((reference.cpu() != actual.cpu()).sum())
        reason = f"{wrong} of {got.numel()} elements differ, and whole numbers must be equal"
    elif not exact and passing > tolerance.atol:
        reason = (
            f"largest difference {max_abs:.3g} is beyond atol {tolerance.atol:.3g}"
            f" + rtol {tolerance.rtol:.3g} * |reference|; atol {passing:.3g} would pass"
        )
    return OutputParity(
        output=output,
        golden=golden,
        passed=not reason,
        reason=reason,
        max_abs=max_abs,
        max_rel=max_rel,
        noise_units=max_abs / noise.max_abs if noise is not None and noise.max_abs > 0 else 0.0,
        cosine=_cosine(left, right),
        nan_mismatches=nan_mismatches,
        inf_mismatches=inf_mismatches,
        nans=int(nan_got.sum()),
        infs=int(inf_got.sum()),
        argmax_agreement=_argmax_agreement(reference, actual),
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        passing_atol=math.inf if nan_mismatches or inf_mismatches else passing,
        elements=got.numel(),
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    import torch

    # The maximum is taken out first: squares of large values would overflow.
    largest_a = float(a.abs().max()) if a.numel() else 0.0
    largest_b = float(b.abs().max()) if b.numel() else 0.0
    if largest_a == 0 or largest_b == 0:
        return 1.0 if largest_a == largest_b else 0.0
    a, b = a / largest_a, b / largest_b
    value = torch.vdot(a, b).real / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
    return min(1.0, max(-1.0, float(value)))


def _argmax_agreement(reference: Tensor, actual: Tensor) -> float:
    if reference.dim() == 0 or reference.numel() == 0 or reference.is_complex():
        return 1.0
    import torch

    wide = torch.float64 if reference.is_floating_point() else torch.int64
    same = reference.cpu().to(wide).argmax(-1) == actual.cpu().to(wide).argmax(-1)
    return float(same.to(torch.float64).mean())
