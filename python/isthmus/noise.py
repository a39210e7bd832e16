"""The noise floor: how far eager is from eager in float64, and the tolerances that follow."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.eager import call, evaluating, first_line, seeded
from isthmus.flat import returns_tree, tensors_of
from isthmus.manifest import Hazard, NoiseFloor, Tolerance

if TYPE_CHECKING:
    from isthmus.capture import Captured
    from isthmus.goldens import Golden

NOISE_FACTOR = 10
"""The tolerance, in units of the noise floor."""
LEAST_ULPS = 8
"""No tolerance is smaller, in units in the last place of the largest golden value."""
FALLBACK_ULPS = 64
"""The noise floor where float64 cannot be had."""
REDUCED_FACTOR = 4
"""Reduced precision adds this many times its own eager error."""
REDUCED_ULPS = 32
"""That error where it was not measured: this many eps of the largest golden value."""

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def ulp(largest: float, dtype: torch.dtype) -> float:
    """One unit in the last place of a value, in a floating-point type."""
    info = torch.finfo(dtype)
    if largest == 0 or not math.isfinite(largest):
        return float(info.tiny)
    exponent = math.frexp(abs(largest))[1] - 1
    return max(float(info.eps) * 2.0**exponent, float(info.tiny))


def largest_value(tensors: Sequence[Tensor]) -> float:
    """Largest finite magnitude, 0 when there is none."""
    most = 0.0
    for tensor in tensors:
        finite = tensor[tensor.isfinite()]
        if finite.numel():
            most = max(most, float(finite.abs().double().max()))
    return most


def is_float(tensor: Tensor) -> bool:
    """Whether outputs of this type are judged by tolerance; the others must be equal."""
    return tensor.is_floating_point() or tensor.is_complex()


def deep_copy(module: nn.Module) -> nn.Module:
    """A deep copy that shares compiled functions, which have no state and cannot be copied.

    Raises:
        Exception: Whatever the module's own `__deepcopy__` raises.
    """
    memo: dict[int, Any] = {
        id(value): value
        for one in module.modules()
        for value in vars(one).values()
        if isinstance(value, torch.jit.ScriptFunction)
    }
    return copy.deepcopy(module, memo)


def cast_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A deep copy in another floating-point type, plain tensor attributes included.

    Raises:
        Exception: Whatever the module's own `__deepcopy__` raises.
    """
    twin = deep_copy(module).to(dtype)
    for one in twin.modules():
        if isinstance(one, torch.jit.ScriptModule):
            continue
        for name, value in list(vars(one).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                cast = cast_values(value, dtype)
                if cast is not value:
                    vars(one)[name] = cast
    return twin


def cast_values(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in lists, tuples and dicts, cast; the same object without any."""
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        items = [cast_values(one, dtype) for one in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(items)
    if type(value) is dict:
        cast = {key: cast_values(one, dtype) for key, one in value.items()}
        return value if all(cast[key] is value[key] for key in value) else cast
    return value


Calls = Sequence[tuple[str, Mapping[str, Any]]]
"""A sequence of calls: method and flat inputs of each."""


class Twin:
    """The module in another precision, to be run on the same sequences of calls."""

    def __init__(self, captured: Captured, dtype: torch.dtype) -> None:
        """Copies and casts the module.

        Raises:
            Exception: It cannot be copied or cast.
        """
        self._captured = captured
        self._dtype = dtype
        self._module = cast_copy(captured.module, dtype)
        if captured.stateful:
            self._pristine: nn.Module | None = deep_copy(self._module)
        else:
            self._pristine = None

    def run(self, steps: Calls) -> list[dict[str, Tensor]]:
        """Outputs of each call, on the CPU.

        Raises:
            Exception: What the module raises, for example on a literal dtype.
        """
        module = self._module if self._pristine is None else deep_copy(self._pristine)
        results = []
        with evaluating(module), seeded(0):
            for name, values in steps:
                method = self._captured.method(name)
                cast = {key: cast_values(value, self._dtype) for key, value in values.items()}
                # Named by this result's own nesting: which outputs are optional is not known yet.
                _, leaves = returns_tree(name, call(module, method, cast))
                tensors = tensors_of(leaves)
                results.append({key: value.detach().cpu() for key, value in tensors.items()})
        return results


def error_of(reference: Tensor, other: Tensor) -> tuple[float, float]:
    """Largest and root mean square difference over the elements finite on both sides.

    A difference in shape is infinite.
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


def tolerances(
    noise_floor: Mapping[str, NoiseFloor],
    goldens: Sequence[Golden],
    precision: str = "fp32",
    *,
    reduced: Mapping[str, float] | None = None,
) -> dict[str, Tolerance]:
    """Tolerance of each output; docs/format.md says the rule.

    Args:
        noise_floor: By output name.
        goldens: For the largest value of each output.
        precision: Of the artifact: "fp32", "fp16" or "bf16".
        reduced: For fp16 and bf16: largest eager error by output name, see `reduced_error`. Where
            it is missing, 32 eps of the largest golden value.
    """
    result: dict[str, Tolerance] = {}
    for name, floor in noise_floor.items():
        if floor.method == "exact":
            result[name] = Tolerance(0.0, 0.0)
            continue
        values = [s.outputs[name] for g in goldens for s in g.steps if name in s.outputs]
        floats = [one for one in values if is_float(one)]
        dtype = _real(floats[0].dtype) if floats else torch.float32
        largest = largest_value(floats)
        atol = max(NOISE_FACTOR * floor.max_abs, LEAST_ULPS * ulp(largest, dtype))
        if precision != "fp32":
            eps = float(torch.finfo(_PRECISIONS[precision]).eps)
            own = (reduced or {}).get(name, REDUCED_ULPS * eps * largest)
            atol += REDUCED_FACTOR * own
        result[name] = Tolerance(atol, 0.0)
    return result


def _real(dtype: torch.dtype) -> torch.dtype:
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def reduced_error(
    captured: Captured, goldens: Sequence[Golden], precision: str
) -> dict[str, float]:
    """Largest difference between the goldens and an eager copy in reduced precision, by output.

    Empty where the module cannot be run in that precision.

    Args:
        captured: Of the module, in its own precision.
        goldens: Made of it.
        precision: "fp16" or "bf16".
    """
    errors: dict[str, float] = {}
    device = next((p.device for p in captured.module.parameters()), torch.device("cpu"))
    try:
        twin = Twin(captured, _PRECISIONS[precision])
        for golden in goldens:
            steps = [
                (s.method, {k: v.to(device) if v.dim() else v for k, v in s.inputs.items()})
                for s in golden.steps
            ]
            for step, outputs in zip(golden.steps, twin.run(steps), strict=True):
                for name, value in step.outputs.items():
                    if is_float(value) and name in outputs:
                        most, _ = error_of(value, outputs[name])
                        errors[name] = max(errors.get(name, 0.0), most)
    except Exception:
        # An operator without a kernel in this type: the documented multiple of eps stands in.
        return {}
    return {name: value for name, value in errors.items() if math.isfinite(value)}


class NoiseMeter:
    """Compares runs in the module's own precision with the same runs in float64."""

    def __init__(self, captured: Captured) -> None:
        self._runs: list[_RunNoise] = []
        self.notes: tuple[Hazard, ...] = ()
        """Why float64 could not be had, where it could not."""
        self._twin: Twin | None = None
        try:
            self._twin = Twin(captured, torch.float64)
        except Exception as error:
            self._give_up("the module cannot be copied and cast", error)

    def add(self, calls: Calls, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Measures one run.

        Args:
            calls: Methods and inputs.
            outputs: What the untouched module gave for each call.
        """
        run = _RunNoise(outputs)
        if self._twin is not None:
            try:
                run.compare(self._twin.run(calls))
            except Exception as error:
                self._give_up("the module cannot run in it", error)
        self._runs.append(run)

    def _give_up(self, what: str, error: Exception) -> None:
        self._twin = None
        self.notes = (
            Hazard(
                "no_float64",
                "info",
                f"no float64 reference, {what} ({first_line(error)}); the noise floor is "
                f"{FALLBACK_ULPS} units in the last place of the largest value",
            ),
        )

    def jump(self, run: int, share: float) -> str:
        """What rounding changes in a run beyond this share of the output's largest value.

        Empty when nothing does. Whole numbers must not change at all.
        """
        for name, error in self._runs[run].errors.items():
            if math.isnan(error.largest):
                if error.max_abs > 0:
                    return f'"{name}" is {int(error.max_abs)} elements different in float64'
                continue
            largest = max(one.largest(name) for one in self._runs)
            limit = share * max(1.0, error.eps / float(torch.finfo(torch.float32).eps) / 100)
            if error.max_abs > limit * largest:
                return f'"{name}" differs by {error.max_abs:.3g} in float64'
        return ""

    def result(self, runs: Sequence[int]) -> dict[str, NoiseFloor]:
        """The noise floor of each output over these runs (by the order they were added in)."""
        chosen = [self._runs[at] for at in runs]
        names = dict.fromkeys(name for run in chosen for name in run.names())
        return {name: self._floor(name, chosen) for name in names}

    def _floor(self, name: str, runs: Sequence[_RunNoise]) -> NoiseFloor:
        tensors = [one for run in runs for one in run.tensors(name)]
        floats = [one for one in tensors if is_float(one)]
        if not floats:
            return NoiseFloor(0.0, 0.0, "exact")
        errors = [run.errors[name] for run in runs if name in run.errors]
        whole = self._twin is not None and all(
            name in run.errors for run in runs if run.tensors(name)
        )
        if whole and all(one.in_float64 for one in errors):
            count = sum(one.count for one in errors)
            squares = sum(one.squares for one in errors)
            rms = math.sqrt(squares / count) if count else 0.0
            return NoiseFloor(max(one.max_abs for one in errors), rms, "float64")
        floor = FALLBACK_ULPS * ulp(largest_value(floats), _real(floats[0].dtype))
        return NoiseFloor(floor, floor, "ulp")


@dataclass
class _OutputNoise:
    """Error of one output in one run."""

    max_abs: float = 0.0
    """For whole numbers: how many elements differ."""
    squares: float = 0.0
    count: int = 0
    largest: float = 0.0
    """NaN for whole numbers."""
    eps: float = 0.0
    in_float64: bool = True


def _unequal(reference: Tensor, other: Tensor | None) -> int:
    if other is None or other.shape != reference.shape:
        return max(reference.numel(), 1)
    return int(torch.ne(reference, other).sum())


class _RunNoise:
    def __init__(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        self._outputs = outputs
        self.errors: dict[str, _OutputNoise] = {}

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for step in self._outputs for name in step))

    def tensors(self, name: str) -> list[Tensor]:
        return [step[name] for step in self._outputs if name in step]

    def largest(self, name: str) -> float:
        return largest_value([one for one in self.tensors(name) if is_float(one)])

    def compare(self, others: Sequence[Mapping[str, Tensor]]) -> None:
        errors: dict[str, _OutputNoise] = {}
        for step, other in zip(self._outputs, others, strict=True):
            for name, reference in step.items():
                error = errors.setdefault(name, _OutputNoise())
                twin = other.get(name)
                if not is_float(reference):
                    error.largest = math.nan
                    error.max_abs += _unequal(reference, twin)
                    continue
                error.eps = float(torch.finfo(reference.dtype).eps)
                if twin is None or twin.dtype not in (torch.float64, torch.complex128):
                    error.in_float64 = False
                    continue
                most, rms = error_of(reference, twin)
                error.max_abs = max(error.max_abs, most)
                error.squares += rms * rms * reference.numel()
                error.count += reference.numel()
        self.errors = errors
