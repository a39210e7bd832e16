"""Measures the noise floor: the error of eager to eager in float64, which counts as the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isthmus.bundle.manifest import Hazard, NoiseFloor
from isthmus.errors import first_line
from isthmus.goldens.compare import error_statistics
from isthmus.goldens.precision_copy import Callee, Calls, PrecisionCopy
from isthmus.goldens.tolerance import (
    FALLBACK_ULPS,
    MULTIPLES,
    PRECISIONS,
    is_float,
    largest_value,
    real_dtype,
    ulp,
)

if TYPE_CHECKING:
    from isthmus.bundle.golden import Golden
    from isthmus.capture.capture import Captured


def error_of(reference: Tensor, other: Tensor) -> tuple[float, float]:
    """Returns the largest and the RMS difference over the elements that are finite on both sides.

    Both are infinite for different shapes.
    """
    if reference.shape != other.shape:
        return math.inf, math.inf
    wide = torch.complex128 if reference.is_complex() else torch.float64
    a, b = reference.to(wide).flatten(), other.to(wide).flatten()
    finite = a.isfinite() & b.isfinite()
    difference = (a - b)[finite].abs()
    if not difference.numel():
        return 0.0, 0.0
    return float(difference.max()), float(difference.square().mean().sqrt())


def own_error(reference: Tensor, truth: Tensor | None) -> Tensor | None:
    """Returns reference minus truth in float32 or complex64, from which the truth can be computed.

    Returns None for integers, and for a truth of another shape or type.

    Args:
        reference: The output of eager, on the CPU.
        truth: The output of eager in float64.
    """
    if truth is None or not is_float(reference) or truth.shape != reference.shape:
        return None
    if truth.dtype not in (torch.float64, torch.complex128):
        return None
    error = reference.to(truth.dtype) - truth
    # NaN and infinity on both sides are no error, though their difference is NaN.
    same = (reference == truth) | (reference.isnan() & truth.isnan())
    error = torch.where(same, torch.zeros_like(error), error)
    return error.to(torch.complex64 if reference.is_complex() else torch.float32)


def reduced_errors(
    captured: Captured, goldens: Sequence[Golden], precision: str
) -> dict[str, dict[str, float]]:
    """Returns the largest error of an eager copy in reduced precision, by output and statistic.

    It is the error to float64 where the goldens have that, else to the goldens. The result is empty
    when the module cannot be run in that precision.

    Args:
        captured: The captured module, in its own precision.
        goldens: The goldens of the module.
        precision: "fp16" or "bf16".
    """
    errors: dict[str, dict[str, float]] = {}
    device = next((p.device for p in captured.module.parameters()), torch.device("cpu"))
    try:
        reduced = PrecisionCopy(captured, PRECISIONS[precision])
        for golden in goldens:
            steps = [
                (s.method, {k: v.to(device) if v.dim() else v for k, v in s.inputs.items()})
                for s in golden.steps
            ]
            for step, outputs in zip(golden.steps, reduced.run(steps), strict=True):
                for name, value in step.outputs.items():
                    if not is_float(value) or name not in outputs:
                        continue
                    other = outputs[name].to(value.dtype)
                    statistics = error_statistics(value, other, step.errors.get(name))
                    _raise_to(errors.setdefault(name, {}), statistics)
    except Exception:
        # An operator has no kernel for this type: the documented multiple of eps is used.
        return {}
    return {
        name: error
        for name, error in errors.items()
        if error and all(map(math.isfinite, error.values()))
    }


def _raise_to(largest: dict[str, float], statistics: Mapping[str, float]) -> None:
    for name, value in statistics.items():
        largest[name] = max(largest.get(name, 0.0), value)


class NoiseMeter:
    """Compares runs in the module's own precision with the same runs in float64."""

    def __init__(self, captured: Callee) -> None:
        self._runs: list[_RunNoise] = []
        self.notes: tuple[Hazard, ...] = ()
        """The reason when the module cannot run in float64."""
        self._float64: PrecisionCopy | None = None
        try:
            self._float64 = PrecisionCopy(captured, torch.float64)
        except Exception as error:
            self._give_up("the module cannot be copied and cast", error)

    def add(self, calls: Calls, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Measures one run.

        Args:
            calls: The method and inputs of each call.
            outputs: The outputs of the untouched module for each call.
        """
        run = _RunNoise(outputs)
        if self._float64 is not None:
            try:
                run.compare(self._float64.run(calls))
            except Exception as error:
                self._give_up("the module cannot run in it", error)
        self._runs.append(run)

    def _give_up(self, what: str, error: Exception) -> None:
        self._float64 = None
        self.notes = (
            Hazard(
                "no_float64",
                "info",
                f"no float64 reference, {what} ({first_line(error)}); the noise floor is "
                f"{FALLBACK_ULPS} units in the last place of the largest value",
            ),
        )

    def jump(self, run: int, share: float) -> str:
        """Returns what rounding changes in a run beyond this share of the output's largest value.

        The text is empty when rounding changes less. Integers must not change at all.
        """
        for name, error in self._runs[run].errors.items():
            if math.isnan(error.largest):
                if error.max_abs > 0:
                    return f'"{name}" is {int(error.max_abs)} elements different in float64'
                continue
            largest = max(run.largest(name) for run in self._runs)
            limit = share * max(1.0, error.eps / float(torch.finfo(torch.float32).eps) / 100)
            if error.max_abs > limit * largest:
                return f'"{name}" differs by {error.max_abs:.3g} in float64'
        return ""

    def result(self, runs: Sequence[int]) -> dict[str, NoiseFloor]:
        """Returns the noise floor of each output over these runs, numbered as they were added."""
        chosen = [self._runs[at] for at in runs]
        names = dict.fromkeys(name for run in chosen for name in run.names())
        return {name: self._floor(name, chosen) for name in names}

    def _floor(self, name: str, runs: Sequence[_RunNoise]) -> NoiseFloor:
        tensors = [tensor for run in runs for tensor in run.tensors(name)]
        floats = [tensor for tensor in tensors if is_float(tensor)]
        if not floats:
            return NoiseFloor(0.0, 0.0, "exact")
        errors = [run.errors[name] for run in runs if name in run.errors]
        complete = self._float64 is not None and all(
            name in run.errors for run in runs if run.tensors(name)
        )
        # A module in float64 is its own copy in float64, so its error is not known.
        same = all(tensor.dtype in (torch.float64, torch.complex128) for tensor in floats)
        same = same and not any(error.max_abs for error in errors)
        if complete and not same and all(error.in_float64 for error in errors):
            count = sum(error.count for error in errors)
            squares = sum(error.squares for error in errors)
            rms = math.sqrt(squares / count) if count else 0.0
            worst = dict.fromkeys(MULTIPLES, 0.0)
            for error in errors:
                _raise_to(worst, error.worst)
            return NoiseFloor(max(error.max_abs for error in errors), rms, "float64", worst)
        floor = FALLBACK_ULPS * ulp(largest_value(floats), real_dtype(floats[0].dtype))
        return NoiseFloor(floor, floor, "ulp")

    def errors_of(self, run: int) -> list[dict[str, Tensor]]:
        """Returns eager minus float64 by call and output name, where that is known."""
        return self._runs[run].own


@dataclass
class _OutputNoise:
    """The error of one output in one run."""

    max_abs: float = 0.0
    """The largest error; for integers, the number of elements that differ."""
    squares: float = 0.0
    count: int = 0
    largest: float = 0.0
    """NaN for integers."""
    eps: float = 0.0
    in_float64: bool = True
    worst: dict[str, float] = field(default_factory=dict)
    """The largest error of any call, by statistic."""


def _unequal(reference: Tensor, other: Tensor | None) -> int:
    if other is None or other.shape != reference.shape:
        return max(reference.numel(), 1)
    return int(torch.ne(reference, other).sum())


class _RunNoise:
    def __init__(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        self._outputs = outputs
        self.errors: dict[str, _OutputNoise] = {}
        self.own: list[dict[str, Tensor]] = [{} for _ in outputs]
        self._largest: dict[str, float] = {}

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for step in self._outputs for name in step))

    def tensors(self, name: str) -> list[Tensor]:
        return [step[name] for step in self._outputs if name in step]

    def largest(self, name: str) -> float:
        if name not in self._largest:
            floats = [tensor for tensor in self.tensors(name) if is_float(tensor)]
            self._largest[name] = largest_value(floats)
        return self._largest[name]

    def compare(self, others: Sequence[Mapping[str, Tensor]]) -> None:
        errors: dict[str, _OutputNoise] = {}
        own: list[dict[str, Tensor]] = []
        for step, other in zip(self._outputs, others, strict=True):
            own.append({})
            for name, reference in step.items():
                error = errors.setdefault(name, _OutputNoise())
                truth = other.get(name)
                if not is_float(reference):
                    error.largest = math.nan
                    error.max_abs += _unequal(reference, truth)
                    continue
                error.eps = float(torch.finfo(reference.dtype).eps)
                difference = own_error(reference, truth)
                if difference is None or truth is None:
                    error.in_float64 = False
                    continue
                own[-1][name] = difference
                _raise_to(error.worst, error_statistics(reference, reference, difference))
                largest, rms = error_of(reference, truth)
                error.max_abs = max(error.max_abs, largest)
                error.squares += rms * rms * reference.numel()
                error.count += reference.numel()
        self.errors, self.own = errors, own
