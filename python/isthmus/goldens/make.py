"""Makes goldens: probes over a grid of shapes and values, with the untouched module's outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import Hazard, Method, NoiseFloor
from isthmus.capture.flat import returns_tree, tensors_of
from isthmus.capture.output_specs import Observed, infer_outputs
from isthmus.capture.resize import resize
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.values import to_tensor
from isthmus.errors import InvalidInput, first_line
from isthmus.goldens.noise_floor import NoiseMeter
from isthmus.goldens.probes import variations
from isthmus.goldens.shape_grid import Cost, shape_grid
from isthmus.goldens.tolerance import is_float

if TYPE_CHECKING:
    from isthmus.capture.capture import Captured

__all__ = ["make_goldens"]

_ILL_CONDITIONED = 1e-2
"""An output that float64 changes by this share of the largest value cannot prove parity."""

Calls = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class _Plan:
    name: str
    dims: dict[str, int]
    calls: Calls
    required: bool


@dataclass(frozen=True)
class _Run:
    plan: _Plan
    golden: Golden
    observed: tuple[tuple[str, Observed], ...]
    """The method and the result of each call."""


def make_goldens(
    captured: Captured,
    *,
    seed: int = 0,
    budget_bytes: int = 16 << 20,
    probes: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[Golden], dict[str, NoiseFloor], Captured]:
    """Runs the untouched module over a grid of shapes and values.

    Every shape of the grid has to work in eager mode: a range that the module cannot serve is
    refused. Value probes are left out, with a note, when eager itself fails on them, gives NaN, or
    gives outputs that rounding alone changes.

    Args:
        captured: The captured module.
        seed: The seed of the perturbed values.
        budget_bytes: The size of all goldens together, in bytes.
        probes: Further inputs of the first method, by flat name; they have to work.

    Returns:
        The goldens, the user's own example first; the noise floor of each output; and `captured`
        with the final specs of the outputs and with further notes.

    Raises:
        InvalidInput: Eager fails on a shape of the grid or on one of `probes`, or the structure of
            a result changes.
    """
    with ModuleRunner(captured.module) as runner:
        return _GoldenMaker(captured, runner, seed, budget_bytes).make(probes)


class _GoldenMaker:
    def __init__(self, captured: Captured, runner: ModuleRunner, seed: int, budget: int) -> None:
        self._captured = captured
        self._runner = runner
        self._seed = seed
        self._budget = budget
        self._names: set[str] = set()
        self._notes: list[Hazard] = []

    def make(
        self, probes: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Golden], dict[str, NoiseFloor], Captured]:
        runs: list[_Run] = []
        roots = self._captured.methods[:1] if self._captured.stateful else self._captured.methods
        for method in roots:
            runs += self._runs_of(method, probes if method is roots[0] else ())
        floor = NoiseMeter(self._captured)
        for run in runs:
            floor.add(run.plan.calls, [step.outputs for step in run.golden.steps])
        runs = [_with_errors(run, floor.errors_of(at)) for at, run in enumerate(runs)]
        chosen = self._within_budget(self._conditioned(runs, floor))
        goldens = [run.golden for run in chosen]
        methods = tuple(self._with_outputs(method, chosen) for method in self._captured.methods)
        notes = (*self._captured.notes, *self._notes, *floor.notes)
        complete = replace(self._captured, methods=methods, notes=notes)
        return goldens, floor.result([runs.index(run) for run in chosen]), complete

    # --- plans --------------------------------------------------------------------------------

    def _runs_of(self, method: Method, probes: Sequence[Mapping[str, Any]]) -> list[_Run]:
        captured = self._captured
        own = self._dims_of(method)
        example = {name: captured.given_sizes[name] for name in own}
        runs = [self._required(method, example, 0)]
        # The first run is not timed, because it also initializes libraries.
        seconds = min(self._seconds(runs[0].plan) for _ in range(2))
        flops = self._flops(runs[0].plan)
        # Each float output is stored with its error to float64, which is not known yet.
        cost = Cost(example, 2 * runs[0].golden.nbytes, flops, seconds, self._budget)
        ranges = {name: captured.dims[name] for name in own}
        shapes = shape_grid(ranges, example, cost.large())
        shapes += [
            shape
            for name, value_range in ranges.items()
            if cost.affordable(
                shape := {**{n: r.min for n, r in ranges.items()}, name: value_range.max}
            )
            and shape not in shapes
        ]
        for at, shape in enumerate(shapes[1:], start=1):
            runs.append(self._required(method, shape, self._seed + at))
        for at, probe in enumerate(probes):
            runs.append(self._user_probe(method, probe, at))
        for at, run in enumerate(list(runs[: len(shapes)])):
            runs += self._probe_runs(method, run, None if at == 0 else at)
        return runs

    def _seconds(self, plan: _Plan) -> float:
        # Processor time, so that other load on the machine does not change the goldens.
        begin = time.process_time()
        self._run(plan)
        return time.process_time() - begin

    def _flops(self, plan: _Plan) -> float:
        with FlopCounterMode(display=False) as counter:
            self._run(plan)
        return float(counter.get_total_flops())

    def _dims_of(self, method: Method) -> list[str]:
        if self._captured.stateful:
            return list(self._captured.dims)
        used = {
            dim
            for input_spec in method.inputs
            for dim in input_spec.shape or ()
            if isinstance(dim, str)
        }
        return [name for name in self._captured.dims if name in used]

    def _values(self, method: str, shape: Mapping[str, int], seed: int) -> dict[str, Any]:
        return resize(self._captured.given[method], self._captured.dynamic, shape, seed)

    def _calls(self, method: Method, first: dict[str, Any], shape: dict[str, int]) -> Calls:
        """Returns one call of a stateless model, or a sequence of calls of every method."""
        if not self._captured.stateful:
            return [(method.name, first)]
        seed = self._seed + 1000
        calls: Calls = [(method.name, first)]
        calls.append((method.name, self._values(method.name, shape, seed)))
        for at, other in enumerate(self._captured.methods):
            if other.name != method.name:
                calls.append((other.name, self._values(other.name, shape, 0)))
                calls.append((method.name, self._values(method.name, shape, seed + 1 + at)))
        calls.append((method.name, self._values(method.name, shape, seed + 500)))
        return calls

    def _required(self, method: Method, shape: dict[str, int], seed: int) -> _Run:
        values = self._values(method.name, shape, seed)
        name = self._name(method, shape)
        failure: Exception | None = None
        for attempt in (values, *_clamped(values, shape)):
            try:
                return self._run(_Plan(name, shape, self._calls(method, attempt, shape), True))
            except InvalidInput:
                raise
            except Exception as error:
                failure = failure or error
        assert failure is not None
        at = ", ".join(f"{dim}={size}" for dim, size in shape.items()) or "the example"
        raise InvalidInput(
            f"{method.name} fails in eager mode at {at}, which lies within dims: "
            f"{first_line(failure)}. Narrow the range in dims to what the module can serve"
        ) from failure

    def _user_probe(self, method: Method, probe: Mapping[str, Any], at: int) -> _Run:
        names = {input_spec.name for input_spec in method.inputs}
        if set(probe) != names:
            wrong = ", ".join(sorted(set(probe) ^ names))
            raise InvalidInput(
                f"probes[{at}]: expected exactly the inputs {', '.join(sorted(names))}; missing or "
                f"unknown: {wrong}"
            )
        shape = {
            dim: int(probe[name].shape[axis])
            for name, axes in self._captured.dynamic.items()
            if name in names
            for axis, dim in axes.items()
        }
        plan = _Plan(
            self._unique(f"probe{at}"), shape, self._calls(method, dict(probe), shape), True
        )
        try:
            return self._run(plan)
        except Exception as error:
            raise InvalidInput(f"probes[{at}] fails in eager mode: {first_line(error)}") from error

    def _probe_runs(self, method: Method, base: _Run, only: int | None) -> Iterator[_Run]:
        """Yields runs of the variations of a run's values, or of the one with number `only`."""
        at = 1 if self._captured.stateful else 0  # the second call of a sequence has state
        probes = list(variations(base.plan.calls[at][1]).items())
        chosen = probes if only is None else probes[only % len(probes) :][:1] if probes else []
        for kind, values in chosen:
            calls = [*base.plan.calls]
            calls[at] = (method.name, values)
            name = self._unique(f"{base.plan.name}-{kind}")
            try:
                run = self._run(_Plan(name, base.plan.dims, calls, False))
            except Exception as error:
                self._left_out(name, f"eager itself fails on it ({first_line(error)})")
                continue
            if _has_nan(run.golden) and not _has_nan(base.golden):
                self._left_out(name, "eager gives NaN for it")
                continue
            yield run

    def _name(self, method: Method, shape: Mapping[str, int]) -> str:
        sizes = "-".join(f"{dim}{size}" for dim, size in shape.items()) or "example"
        first = method.name == self._captured.methods[0].name
        return self._unique(sizes if first else f"{method.name}-{sizes}")

    def _unique(self, name: str) -> str:
        base = "".join(char if char.isalnum() or char in "._-" else "_" for char in name)
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}-{count}"
        self._names.add(name)
        return name

    # --- running ------------------------------------------------------------------------------

    def _run(self, plan: _Plan) -> _Run:
        with self._runner.run():
            return self._run_calls(plan)

    def _run_calls(self, plan: _Plan) -> _Run:
        captured = self._captured
        steps: list[Step] = []
        observed: list[tuple[str, Observed]] = []
        for name, values in plan.calls:
            method = captured.method(name)
            inputs = {
                input_spec.name: _stored(to_tensor(input_spec, values[input_spec.name]))
                for input_spec in method.inputs
            }
            result = self._runner.call(method, values)
            tree, leaves = returns_tree(f"{type(captured.module).__name__}.{name}", result)
            outputs = {key: _stored(tensor) for key, tensor in tensors_of(leaves).items()}
            steps.append(Step(name, inputs, outputs))
            typed = {
                key: outputs[key] if isinstance(value, Tensor) else value
                for key, value in leaves.items()
            }
            observed.append((name, Observed(plan.name, plan.dims, tree, typed)))
        return _Run(plan, Golden(plan.name, dict(plan.dims), tuple(steps)), tuple(observed))

    def _with_outputs(self, method: Method, runs: Sequence[_Run]) -> Method:
        calls = [call for run in runs for name, call in run.observed if name == method.name]
        return infer_outputs(method, calls)

    # --- choosing -----------------------------------------------------------------------------

    def _conditioned(self, runs: Sequence[_Run], floor: NoiseMeter) -> list[_Run]:
        conditioned = []
        for at, run in enumerate(runs):
            jump = floor.jump(at, _ILL_CONDITIONED)
            if jump and not run.plan.required:
                self._left_out(run.plan.name, f"rounding alone changes its answer ({jump})")
                continue
            if jump:
                self._notes.append(
                    Hazard(
                        "ill_conditioned",
                        "warning",
                        f"golden {run.plan.name}: rounding alone changes the answer ({jump}); its "
                        "tolerance is wide, or its whole numbers may differ between engines",
                    )
                )
            conditioned.append(run)
        return conditioned

    def _within_budget(self, runs: list[_Run]) -> list[_Run]:
        remaining = list(runs)
        first = {run.plan.calls[0][0]: run.plan.name for run in reversed(runs) if run.plan.required}
        while sum(run.golden.nbytes for run in remaining) > self._budget:
            # Value probes are dropped before shapes, and the user's own example never.
            spare = [run for run in remaining if run.plan.name not in first.values()]
            if not spare:
                self._notes.append(
                    Hazard(
                        "large_goldens",
                        "warning",
                        f"the goldens take {sum(r.golden.nbytes for r in remaining) >> 20} MiB, "
                        f"more than {self._budget >> 20}: the example itself is large; pass a "
                        "smaller one",
                    )
                )
                break
            worst = max(spare, key=lambda run: (not run.plan.required, run.golden.nbytes))
            remaining.remove(worst)
            self._left_out(worst.plan.name, "the goldens would take too much space")
        return remaining

    def _left_out(self, name: str, reason: str) -> None:
        self._notes.append(Hazard("golden_left_out", "info", f"golden {name} left out: {reason}"))


def _stored(tensor: Tensor) -> Tensor:
    """Returns a copy of a tensor as a golden holds it: on the CPU and contiguous."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _with_errors(run: _Run, errors: Sequence[dict[str, Tensor]]) -> _Run:
    steps = tuple(
        replace(step, errors=own) for step, own in zip(run.golden.steps, errors, strict=True)
    )
    return replace(run, golden=replace(run.golden, steps=steps))


def _has_nan(golden: Golden) -> bool:
    return any(
        bool(value.isnan().any())
        for step in golden.steps
        for value in step.outputs.values()
        if is_float(value)
    )


def _clamped(values: Mapping[str, Any], shape: Mapping[str, int]) -> list[dict[str, Any]]:
    """Returns values whose integers are at most the least dynamic size.

    Lengths and indices may be out of range after a crop.
    """
    if not shape:
        return []
    least = min(shape.values())
    integers = [
        name
        for name, value in values.items()
        if isinstance(value, Tensor) and not is_float(value) and value.dtype != torch.bool
    ]
    return [
        {**values, **{name: values[name].clamp(max=max(limit, 0)) for name in integers}}
        for limit in (least, least - 1)
        if integers
    ]
