"""Makes goldens of special values: NaN, infinities, zeros, denormals and magnitudes.

They are a set of their own. An engine that differs on them is still offered: its proof then says
for which values it is not proven, and a call with such values is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import Method, ValueSpec
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.values import flat_outputs
from isthmus.goldens.apart import run_apart
from isthmus.goldens.noise_floor import error_of, own_error
from isthmus.goldens.precision_copy import PrecisionCopy
from isthmus.goldens.tolerance import is_float, largest_value

if TYPE_CHECKING:
    from isthmus.capture.capture import Captured

__all__ = ["KINDS", "MAGNITUDE", "SpecialGolden", "make_special_goldens", "stored_specials"]

KINDS = ("nan", "inf", "zero", "negative_zero", "denormal", "large")
"""The kinds of special values of an input of floating-point numbers; "large" is beyond 2^62."""
MAGNITUDE = "magnitude"
"""The kind of a golden with larger numbers than the ordinary goldens have."""

_INTEGER_LIMITS = (
    *(2**power - 1 for power in (7, 8, 15, 16, 31, 32, 63)),
    *(2**power + 1 for power in (7, 8, 15, 16, 31, 32)),
    *(2**power for power in (11, 24, 53, 62)),
)
"""The magnitudes of integers that are tried. Engines lose integers at the ends of smaller types,
where those just beyond have the other sign, beyond the mantissas of float32 and float64 (2^24,
2^53), and where products leave these."""
_FLOAT_LIMITS = tuple(2**power for power in (8, 12, 16, 24, 31, 40, 62))
"""The magnitudes of floating-point numbers that are tried. They are cast to integers (2^8, 2^16,
2^31), or leave float16 (2^16, and 2^8 when they are squared)."""
_SHARE = 0.3
"""The share of the elements that have a special value, where several have it."""
_JUMP = 1e-2
"""An output that float64 changes by this share of its largest value proves nothing."""
_TOGETHER: dict[str, tuple[tuple[float, ...], ...]] = {
    "nan": ((math.nan,),),
    "inf": ((math.inf,), (-math.inf,), (math.inf, -math.inf), (-math.inf, math.inf)),
    "zero": ((0.0,),),
    "negative_zero": ((-0.0,),),
    "denormal": ((1.0,), (1e-3,), (1e-3, -1e-3)),
}
"""Special values of all inputs at once, by kind; several numbers alternate among them. Denormals
are in units of the half of the smallest normal number of their type."""
_BESIDE_ZEROS = {"nan": math.nan, "inf": math.inf}
"""The special values that are tried where all other inputs are zero."""
_MOST_BESIDE_ZEROS = 4
"""The number of inputs up to which each is tried beside zeros."""
_MOST_BYTES = 4 << 20
"""The size of the largest golden that is varied, in bytes."""
_SECOND_BYTES = 1 << 18
"""The size of the largest golden that is varied besides the user's example, in bytes."""
_MOST_STORED = 1 << 20
"""The size of all stored goldens of special values, in bytes."""
_SECONDS = 5.0
"""The least time that one call of the eager module may take."""
_TOTAL_SECONDS = 120.0
"""The time that all calls of the eager module may take."""


@dataclass(frozen=True)
class SpecialGolden:
    """A golden with special values in some of its inputs."""

    golden: Golden
    """The calls. An output that rounding alone changes is left out of them, and is not judged."""
    special: Mapping[str, str]
    """The kind of the special values, by input: one of `KINDS`, or "magnitude"."""
    limits: Mapping[str, int]
    """The number furthest from 0, by input, for magnitudes; both signs for floating point."""
    beside_zeros: bool = False
    """Whether the other inputs are zero where the values are."""


@dataclass(frozen=True)
class _Trial:
    """Values to try: a golden with other inputs in one of its steps."""

    name: str
    base: Golden
    step: int
    inputs: Mapping[str, Tensor]
    special: Mapping[str, str]
    limits: Mapping[str, int]
    beside_zeros: bool = False

    @property
    def group(self) -> tuple[tuple[str, str, bool], ...]:
        """The inputs, their kinds and signs: when one number hangs, larger ones do so too."""
        return tuple((name, k, self.limits.get(name, 0) < 0) for name, k in self.special.items())


def make_special_goldens(
    captured: Captured, goldens: Sequence[Golden], *, seed: int = 0
) -> list[SpecialGolden]:
    """Runs the untouched module on special values of each input; what it refuses is left out.

    The module runs in a process of its own, because large integers may be sizes or counts.

    Args:
        captured: The captured module, with the final specs of its outputs.
        goldens: The goldens of the module, whose inputs are varied.
        seed: The seed of the places and values.
    """
    trials = list(_trials(captured, goldens, torch.Generator().manual_seed(seed + 7)))
    if not trials:
        return []
    maker = _Maker(captured)
    begin = time.perf_counter()
    maker.outputs(trials[0].base.steps)
    once = time.perf_counter() - begin
    results = run_apart(
        [(trial.group, partial(maker.make, trial)) for trial in trials],
        seconds=max(_SECONDS, 20 * once),
        total=max(_TOTAL_SECONDS, 20 * once),
    )
    return [result for result in results if result is not None]


def own_range(name: str, goldens: Iterable[Golden]) -> tuple[int, int]:
    """Returns the least and the largest value of an input in ordinary goldens, as whole numbers.

    Of floating-point numbers it is the largest magnitude, with both signs.
    """
    values = [
        step.inputs[name] for golden in goldens for step in golden.steps if name in step.inputs
    ]
    values = [value for value in values if value.numel()]
    if not values:
        return 0, 0
    if is_float(values[0]):
        most = math.ceil(min(largest_value(values), _INT64.max))
        return -most, most
    return min(int(value.min()) for value in values), max(int(value.max()) for value in values)


def stored_specials(
    specials: Sequence[SpecialGolden], budget_bytes: int = _MOST_STORED
) -> list[SpecialGolden]:
    """Returns the few goldens to store: the smallest of each input and kind, within the budget.

    Those of one input come first, for an engine that differs on them need not be tried on several
    inputs at once.
    """
    chosen: dict[tuple[tuple[tuple[str, str], ...], bool], SpecialGolden] = {}
    for special in sorted(specials, key=lambda s: (len(s.special), s.golden.nbytes)):
        chosen.setdefault((tuple(special.special.items()), special.beside_zeros), special)
    kept: list[SpecialGolden] = []
    for special in chosen.values():
        budget_bytes -= special.golden.nbytes
        if budget_bytes < 0:
            break
        kept.append(special)
    return kept


_INT64 = torch.iinfo(torch.int64)

# --- trials ---------------------------------------------------------------------------------------


def _trials(
    captured: Captured, goldens: Sequence[Golden], generator: torch.Generator
) -> Iterator[_Trial]:
    """Yields the trials: of the user's example first, then of another size."""
    roots = captured.methods[:1] if captured.stateful else captured.methods
    bases = [(method, *base) for method in roots for base in _bases(method, goldens)]
    for number, (method, base, step) in enumerate(bases):
        varied: dict[int, dict[str, Tensor]] = {}
        for spec in method.inputs:
            value = base.steps[step].inputs.get(spec.name)
            if value is None or not value.numel() or value.dtype == torch.bool:
                continue
            name = f"special-{spec.name}" + (f"-{number}" if number else "")
            for kind, at, special in _specials_of(value, generator):
                one = {spec.name: kind}
                yield _Trial(f"{name}-{kind}-{at}", base, step, {spec.name: special}, one, {})
            low, high = own_range(spec.name, goldens)
            for limit, at, special in _magnitudes_of(spec, value, low, high, generator):
                one = {spec.name: MAGNITUDE}
                limits = {spec.name: limit}
                yield _Trial(f"{name}-{limit}-{at}", base, step, {spec.name: special}, one, limits)
                if not is_float(value) and value.dim():
                    varied.setdefault(limit, {})[spec.name] = special
        if number == 0 or bases[number - 1][0] is not method:
            yield from _of_several_inputs(method, base, step, f"-{number}" if number else "")
        for limit, inputs in varied.items():
            if len(inputs) > 1:
                kinds = dict.fromkeys(inputs, MAGNITUDE)
                limits = dict.fromkeys(inputs, limit)
                name = f"special-{number}-integers-{limit}"
                yield _Trial(name, base, step, inputs, kinds, limits)


def _of_several_inputs(method: Method, base: Golden, step: int, suffix: str) -> Iterator[_Trial]:
    """Yields trials with special values in the last element of several inputs, which meet there.

    Args:
        method: The method that is called.
        base: The golden to vary.
        step: The number of its call to vary.
        suffix: The end of the trials' names, which tells them from those of other methods.
    """
    given = {spec.name: base.steps[step].inputs.get(spec.name) for spec in method.inputs}
    values = {
        name: value
        for name, value in given.items()
        if value is not None and value.numel() and value.is_floating_point()
    }
    if len(values) < 2:
        return
    for kind, choices in _TOGETHER.items():
        for at, numbers in enumerate(choices):
            inputs = {}
            for index, (name, value) in enumerate(values.items()):
                unit = torch.finfo(value.dtype).tiny / 2 if kind == "denormal" else 1.0
                inputs[name] = _with_last(value, numbers[index % len(numbers)] * unit)
            special = dict.fromkeys(inputs, kind)
            yield _Trial(f"special-together-{kind}-{at}{suffix}", base, step, inputs, special, {})
    if len(values) > _MOST_BESIDE_ZEROS:
        return
    for name in values:
        for kind, number in _BESIDE_ZEROS.items():
            inputs = {
                other: _with_last(value, number if other == name else 0.0)
                for other, value in values.items()
            }
            title = f"special-{name}-{kind}-beside-zeros{suffix}"
            yield _Trial(title, base, step, inputs, {name: kind}, {}, beside_zeros=True)


def _with_last(value: Tensor, number: float) -> Tensor:
    """Returns a copy of a tensor with another last element."""
    changed = value.clone(memory_format=torch.contiguous_format)
    changed.view(-1)[-1] = number
    return changed


def _bases(method: Method, goldens: Sequence[Golden]) -> Iterator[tuple[Golden, int]]:
    """Yields the goldens to vary, each with the number of the step: at most two of a method."""
    own = [golden for golden in goldens if golden.steps[0].method == method.name]
    # The second call of a sequence has state.
    usable = [(golden, min(1, len(golden.steps) - 1)) for golden in own]
    usable = [
        (golden, step)
        for golden, step in usable
        if golden.steps[step].method == method.name and golden.nbytes <= _MOST_BYTES
    ]
    yield from usable[:1]
    others = [base for base in usable[1:] if base[0].nbytes <= _SECOND_BYTES]
    if others:
        yield max(others, key=lambda base: base[0].nbytes)


def _specials_of(value: Tensor, generator: torch.Generator) -> Iterator[tuple[str, int, Tensor]]:
    """Yields tensors with special values: the kind, the number among its kind, and the tensor."""
    if not value.is_floating_point():
        return
    info = torch.finfo(value.dtype)
    uniform = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
    signs = torch.where(torch.rand(value.shape, generator=generator) < 0.5, -1.0, 1.0).double()
    fills: dict[str, list[Tensor]] = {
        "nan": [torch.full_like(uniform, math.nan)],
        "inf": [signs * math.inf, -signs * math.inf],
        "zero": [torch.zeros_like(uniform)],
        "negative_zero": [-torch.zeros_like(uniform)],
        "denormal": [signs * uniform / 2 * float(info.tiny)],
    }
    if float(info.max) > 2.0**62:
        # The exponents are spread evenly between 2^62 and the largest number.
        power = 63 + (math.log2(float(info.max)) - 64) * (uniform - 0.5)
        fills["large"] = [signs * 2.0**power, signs * float(info.max)]
    for kind, tensors in fills.items():
        places = _places(value, generator, all_of_a_row=kind == "nan")
        pairs = [(place, fill) for fill in tensors for place in places]
        for at, (place, fill) in enumerate(pairs):
            yield kind, at, torch.where(place, fill.to(value.dtype), value)


def _places(value: Tensor, generator: torch.Generator, *, all_of_a_row: bool) -> list[Tensor]:
    """Returns masks of the places that get a special value: one place, the last, some, a row."""
    one = torch.zeros(value.numel(), dtype=torch.bool)
    one[int(torch.randint(0, value.numel(), (1,), generator=generator))] = True
    masks = [one.view(value.shape)]
    if value.numel() > 1:
        last = torch.zeros_like(one)
        last[-1] = True
        masks.append(last.view(value.shape))
        some = torch.rand(value.shape, generator=generator) < _SHARE
        masks.append(some | masks[0])
    if all_of_a_row and value.dim():
        row = torch.zeros_like(masks[0])
        row.view(-1, value.shape[-1])[0] = True
        masks.append(row)
    return masks


def _magnitudes_of(
    spec: ValueSpec, value: Tensor, low: int, high: int, generator: torch.Generator
) -> Iterator[tuple[int, int, Tensor]]:
    """Yields tensors of larger numbers: the limit, the number among its kind, and the tensor.

    Args:
        spec: The input; one whose values index a table has a range, and is not varied.
        value: The input's value.
        low: The least value of the input in all goldens.
        high: The largest value of the input in all goldens.
        generator: The source of the places and values.
    """
    if value.is_floating_point():
        largest = float(value[value.isfinite()].abs().double().max()) if value.numel() else 0.0
        for limit in _FLOAT_LIMITS:
            if high < limit <= float(torch.finfo(value.dtype).max):
                numbers = _up_to(limit, value.shape, generator)
                signs = torch.where(torch.rand(value.shape, generator=generator) < 0.5, -1, 1)
                some = _places(value, generator, all_of_a_row=False)[-1]
                yield limit, 0, torch.where(some, (numbers * signs).to(value.dtype), value)
                if largest > 0:
                    scaled = value.double() * (limit / largest)
                    yield limit, 1, scaled.clamp(-limit, limit).to(value.dtype)
        return
    if is_float(value) or spec.values is not None:
        return
    info = torch.iinfo(value.dtype)
    limits = {0, 1, -1, info.min, min(info.max, _INT64.max)}
    limits |= {sign * limit for limit in _INTEGER_LIMITS for sign in (1, -1)}
    # Outwards from the numbers of the ordinary goldens.
    for limit in sorted(limits, key=lambda limit: max(low - limit, limit - high)):
        if info.min <= limit <= info.max and not low <= limit <= high:
            places = _places(value, generator, all_of_a_row=False)
            numbers = torch.where(places[0], limit, _up_to(limit, value.shape, generator))
            yield limit, 0, torch.where(places[-1], numbers.to(value.dtype), value)


def _up_to(limit: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Returns random whole numbers between half a limit and the limit, in int64."""
    half = torch.randint(0, abs(limit) // 2 + 1, tuple(shape), generator=generator)
    return limit - half if limit > 0 else limit + half


# --- eager ----------------------------------------------------------------------------------------


class _Maker:
    """Runs trials on the untouched module, and on its copy in float64."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._device = next((p.device for p in captured.module.parameters()), torch.device("cpu"))
        self._float64: PrecisionCopy | None = None
        self._has_float64 = True

    def make(self, trial: _Trial) -> SpecialGolden:
        """Returns the golden of a trial.

        Raises:
            Exception: Eager refuses the values, or rounding alone changes every output.
        """
        steps = [
            Step(step.method, {**step.inputs, **(trial.inputs if at == trial.step else {})}, {})
            for at, step in enumerate(trial.base.steps)
        ]
        outputs = self.outputs(steps)
        truths = self._truths(steps)
        for step, own, truth in zip(steps, outputs, truths, strict=True):
            for name, value in own.items():
                other = truth.get(name)
                if other is not None and _jumps(value, other):
                    continue
                step.outputs[name] = value
                error = own_error(value, other)
                if error is not None:
                    step.errors[name] = torch.where(error.isfinite(), error, 0)
        if not any(step.outputs for step in steps):
            raise ValueError("rounding alone changes every output")
        golden = Golden(_file_name(trial.name), dict(trial.base.dims), tuple(steps))
        return SpecialGolden(golden, trial.special, trial.limits, trial.beside_zeros)

    def outputs(self, steps: Sequence[Step]) -> list[dict[str, Tensor]]:
        """Returns the outputs of each call of the untouched module, on the CPU."""
        results = []
        runner = ModuleRunner(self._captured.module, stateful=self._captured.stateful)
        with runner, runner.run():
            for name, inputs in self._calls(steps):
                method = self._captured.method(name)
                outputs = flat_outputs(method, runner.call(method, inputs))
                results.append({key: _stored(value) for key, value in outputs.items()})
        return results

    def _truths(self, steps: Sequence[Step]) -> list[dict[str, Tensor]]:
        """Returns the outputs in float64; empty where the module cannot run in it."""
        if self._has_float64:
            try:
                if self._float64 is None:
                    self._float64 = PrecisionCopy(self._captured, torch.float64)
                return self._float64.run(self._calls(steps))
            except Exception:
                self._has_float64 = False
        return [{} for _ in steps]

    def _calls(self, steps: Sequence[Step]) -> list[tuple[str, dict[str, Tensor]]]:
        return [
            (step.method, {k: v.to(self._device) if v.dim() else v for k, v in step.inputs.items()})
            for step in steps
        ]


def _jumps(value: Tensor, truth: Tensor) -> bool:
    """Returns True when rounding alone changes an output."""
    if value.shape != truth.shape:
        return True
    if not is_float(value):
        return not torch.equal(value, truth)
    limit = _JUMP * max(1.0, torch.finfo(value.dtype).eps / torch.finfo(torch.float32).eps / 100)
    return error_of(value, truth)[0] > limit * largest_value([value])


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in name)
