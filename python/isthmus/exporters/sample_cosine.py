"""Measures the cosine of each sample of an output to the reference, to judge reduced precision.

A user of embeddings meets the worst sentence and not the mean of all of them, so an output is cut
along its first named dimension, which is the batch in any usual signature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.bundle.manifest import ValueSpec
from isthmus.goldens.tolerance import is_float

__all__ = ["Cosines", "sample_cosines"]


@dataclass
class Cosines:
    """The cosines of all samples of all outputs over the goldens."""

    least: float = 0.0
    """The least cosine allowed; with 0 nothing is asked and nothing is counted."""
    count: int = 0
    total: float = 0.0
    worst: float = math.inf
    where: str = ""
    """The golden, output and sample of the worst cosine."""

    @property
    def mean(self) -> float:
        """The mean over all samples; 1 without any."""
        return self.total / self.count if self.count else 1.0

    @property
    def note(self) -> str:
        """The sentence after a semicolon; empty where nothing was counted."""
        return f"; {self}" if self.count else ""

    def __str__(self) -> str:
        """Returns "the worst of 340 samples has the cosine 0.9944 to fp32 (...), ..."."""
        return (
            f"the worst of {self.count} samples has the cosine {self.worst:.4f} to fp32 "
            f"({self.where}), the mean is {self.mean:.4f}, and {self.least:g} is the least allowed"
        )

    def add(
        self, golden: str, spec: ValueSpec, reference: Tensor | None, actual: Tensor | None
    ) -> str:
        """Counts an output of a call, and returns why a sample is too far off, else "".

        Outputs that are not floating-point, absent, or of another shape than the reference are not
        counted.
        """
        if not self.least or reference is None or actual is None or not is_float(reference):
            return ""
        if reference.shape != actual.shape or not reference.numel():
            return ""
        cosines = sample_cosines(spec, reference, actual)
        at = int(cosines.argmin())
        worst = float(cosines[at])
        self.count += len(cosines)
        self.total += float(cosines.sum())
        which = f", sample {at}" if len(cosines) > 1 else ""
        if worst < self.worst:
            self.worst, self.where = worst, f"golden {golden}, output {spec.name}{which}"
        if worst >= self.least:
            return ""
        return (
            f"the cosine to fp32 is {worst:.4f}{which}, and {self.least:g} is the least allowed; "
            f"the mean of its samples is {float(cosines.mean()):.4f}"
        )


def sample_cosines(spec: ValueSpec, reference: Tensor, actual: Tensor) -> Tensor:
    """Returns the cosine similarity of each sample, float64[samples], as `isthmus::compare` does.

    An output without a named dimension, or with one value a sample, is one sample. Values that are
    not finite on either side are left out; the tolerance judges where they have to agree.

    Args:
        spec: The output's specification.
        reference: The eager module's output.
        actual: The output to judge, in the same shape.
    """
    a, b = _rows(spec, reference), _rows(spec, actual)
    finite = a.isfinite() & b.isfinite()
    a, b = torch.where(finite, a, 0.0), torch.where(finite, b, 0.0)
    # Scaled first: the square of a large float64 is infinite.
    left = a / a.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    right = b / b.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    sizes = left.norm(dim=1) * right.norm(dim=1)
    # A zero vector has no direction: it equals another zero vector, and nothing else.
    both_zero = ((left.norm(dim=1) == 0) & (right.norm(dim=1) == 0)).double()
    return torch.where(sizes > 0, (left * right).sum(1) / sizes.clamp_min(1e-300), both_zero)


def _rows(spec: ValueSpec, value: Tensor) -> Tensor:
    """Returns the values as float64[samples, values] on the CPU."""
    value = value.detach().cpu()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    value = value.to(torch.float64)
    named = (axis for axis, size in enumerate(spec.shape or ()) if isinstance(size, str))
    axis = next(named, None)
    if axis is None or value.numel() <= value.shape[axis]:
        return value.reshape(1, -1)
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)
