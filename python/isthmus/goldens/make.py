"""Makes goldens: probes over a grid of shapes and values, with the untouched module's outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.bundle.golden import Golden, Step, with_written
from isthmus.bundle.manifest import DimRange, Hazard, Method, NoiseFloor, written_name
from isthmus.bundle.size_expression import bind_sizes, names_of
from isthmus.capture.flat import returns_tree, tensors_of
from isthmus.capture.made_values import Donor, made_values
from isthmus.capture.observe_methods import with_effects
from isthmus.capture.output_specs import Observed, infer_outputs, without_example
from isthmus.capture.run_module import Effects, ModuleRunner
from isthmus.capture.size_proposals import proposal
from isthmus.capture.values import to_tensor
from isthmus.errors import InvalidInput, first_line
from isthmus.goldens.noise_floor import NoiseMeter
from isthmus.goldens.operations import OperationCounter
from isthmus.goldens.probes import differs, variations
from isthmus.goldens.shape_grid import Cost, shape_grid
from isthmus.goldens.stored import BUDGET_BYTES
from isthmus.goldens.sweep import SHAPES, Load, Price, sweep_shapes
from isthmus.goldens.tolerance import is_float

if TYPE_CHECKING:
    from isthmus.capture.capture import Captured

__all__ = ["make_goldens"]

_ILL_CONDITIONED = 1e-2
"""An output that float64 changes by this share of the largest value cannot prove parity."""
_MOST_BYTES = 128 << 20
"""Value probes of further shapes are left out where the goldens before them take this much."""
_LEAST_SWEEP = 8
"""The number of shapes of a sweep that each of many methods gets at least."""
_STATEFUL_SWEEP = 16
"""The number of shapes of a stateful model's sweep, whose artifact is loaded again for each."""

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
    budget_bytes: int = BUDGET_BYTES,
    probes: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[Golden], dict[str, NoiseFloor], Captured]:
    """Runs the untouched module over a grid of shapes and values.

    Every shape of the grid has to work in eager mode: a range that the module cannot serve is
    refused. Where values that isthmus made do not work, others are tried, and the user's examples
    take their place. Value probes are left out, with a note, when eager itself fails on them, gives
    NaN, or gives outputs that rounding alone changes.

    Args:
        captured: The captured module.
        seed: The seed of the perturbed values.
        budget_bytes: The bytes that a bundle stores (see `stored_goldens`), of which a shape of the
            grid takes at most a quarter where the example does not take more.
        probes: Further inputs of the first method, by flat name; they have to work.

    Returns:
        All goldens, the user's own example first; the noise floor of each output; and `captured`
        with the final specs of the outputs, the sweep over many more sizes, and further notes.

    Raises:
        InvalidInput: Eager fails on a shape of the grid or of the sweep or on one of `probes`, only
            one size of a range works, or the structure of a result changes.
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
        self._not_made: dict[str, str] = {}
        """The shapes at which eager accepts no values made from the user's examples, with why."""

    def make(
        self, probes: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Golden], dict[str, NoiseFloor], Captured]:
        runs: list[_Run] = []
        roots = self._captured.methods[:1] if self._captured.stateful else self._captured.methods
        for method in roots:
            runs += self._runs_of(method, probes if method is roots[0] else ())
        self._require_several_sizes(runs)
        sweep: list[_Run] = []
        for method in roots:
            sweep += self._sweep_of(method, runs, max(SHAPES // len(roots), _LEAST_SWEEP))
        runs = [self._with_written(run) for run in runs]
        sweep = [self._with_written(run) for run in sweep]
        floor = NoiseMeter(self._captured)
        for run in (*runs, *sweep):
            floor.add(run.plan.calls, [step.outputs for step in run.golden.steps])
        everything = [*runs, *sweep]
        everything = [_with_errors(run, floor.errors_of(at)) for at, run in enumerate(everything)]
        if self._not_made:
            self._notes.append(_unproven_sizes(self._not_made))
        self._notes += _untried_sizes(self._captured.dims, [run.plan.dims for run in everything])
        chosen = self._conditioned(everything[: len(runs)], floor)
        swept = [
            run
            for at, run in enumerate(everything[len(runs) :], start=len(runs))
            if not floor.jump(at, _ILL_CONDITIONED)
        ]
        goldens = [run.golden for run in chosen]
        known = [*chosen, *everything[len(runs) :]]
        methods = tuple(self._with_outputs(method, known) for method in self._captured.methods)
        complete = replace(
            self._captured,
            methods=methods,
            notes=(*self._captured.notes, *self._notes, *floor.notes),
            sweep=tuple(run.golden for run in swept),
        )
        return goldens, floor.result([everything.index(run) for run in chosen]), complete

    # --- plans --------------------------------------------------------------------------------

    def _runs_of(self, method: Method, probes: Sequence[Mapping[str, Any]]) -> list[_Run]:
        captured = self._captured
        own = self._dims_of(method)
        example = {name: captured.given_sizes[name] for name in own}
        first = self._required(method, example, 0)
        assert first is not None
        runs = [first]
        # The first run is not timed, because it also initializes libraries.
        seconds = min(self._seconds(runs[0].plan) for _ in range(2))
        flops = self._operations(runs[0].plan)
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
        if method.name == captured.methods[0].name:
            for at, donor in enumerate(captured.further):
                runs.append(self._user_example(method, donor, at))
        for at, shape in enumerate(shapes[1:], start=1):
            if all(run.plan.dims != shape for run in runs):
                run = self._required(method, shape, self._seed + at)
                runs += [run] if run is not None else []
        bases = list(runs)
        for at, probe in enumerate(probes):
            runs.append(self._user_probe(method, probe, at))
        for at, run in enumerate(bases):
            if at and sum(run.golden.nbytes for run in runs) > _MOST_BYTES:
                self._left_out(f"{run.plan.name}-values", "the goldens take too much memory")
                break
            runs += self._probe_runs(method, run, None if at == 0 else at)
        return runs

    def _seconds(self, plan: _Plan) -> float:
        # Processor time, so that other load on the machine does not change the goldens.
        begin = time.process_time()
        self._run(plan)
        return time.process_time() - begin

    def _operations(self, plan: _Plan) -> float:
        counter = OperationCounter()
        try:
            with counter:
                self._run(plan)
        except Exception:  # the module does not run under a dispatch mode
            return 0.0
        return float(counter.operations)

    def _dims_of(self, method: Method) -> list[str]:
        if self._captured.stateful:
            return list(self._captured.dims)
        used = {
            name
            for input_spec in method.inputs
            for size in input_spec.shape or ()
            for name in names_of(size)
        }
        return [name for name in self._captured.dims if name in used]

    def _values(self, method: str, shape: Mapping[str, int], seed: int) -> dict[str, Any]:
        return next(self._made(self._captured.method(method), shape, seed))[1]

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

    def _required(self, method: Method, shape: dict[str, int], seed: int) -> _Run | None:
        return self._accepted(method, shape, seed, self._name(method, shape))

    def _require_several_sizes(self, runs: Sequence[_Run]) -> None:
        for name, limits in self._captured.dims.items():
            sizes = {run.plan.dims[name] for run in runs if name in run.plan.dims}
            if limits.min != limits.max and len(sizes) < 2:
                raise InvalidInput(
                    f'dims["{name}"]: of {limits} only the size {", ".join(map(str, sizes))} can '
                    "be proven, because eager accepts no values that isthmus makes at others; give "
                    "a real call at another size, examples=[...], or take the dimension out of "
                    "dynamic"
                )

    def _sweep_of(self, method: Method, runs: Sequence[_Run], count: int) -> list[_Run]:
        """Returns runs of a method at many more sizes."""
        captured = self._captured
        own = [run for run in runs if run.plan.required and run.plan.calls[0][0] == method.name]
        least = min(own, key=lambda run: math.prod(max(n, 1) for n in run.plan.dims.values()))
        price = Price(own[0].plan.dims, self._load(own[0]), least.plan.dims, self._load(least))
        shapes = sweep_shapes(
            {name: captured.dims[name] for name in self._dims_of(method)},
            price,
            [run.plan.dims for run in own],
            seed=self._seed,
            count=min(count, _STATEFUL_SWEEP) if captured.stateful else count,
        )
        sweep = [
            self._accepted(method, shape, self._seed + 2000 + at, _sizes_text(shape))
            for at, shape in enumerate(shapes)
        ]
        return [run for run in sweep if run is not None]

    def _load(self, run: _Run) -> Load:
        # Each float output has its error to float64 beside it.
        return Load(self._operations(run.plan), 2 * run.golden.nbytes)

    def _accepted(self, method: Method, shape: dict[str, int], seed: int, name: str) -> _Run | None:
        """Returns a run at a shape; None where only the user's own examples can prove the range.

        Raises:
            InvalidInput: Eager fails on all values that can be made, and there are no examples.
        """
        captured = self._captured
        failure: Exception | None = None
        tried: dict[str, None] = {}
        for way, values in self._made(method, shape, seed):
            try:
                return self._run(_Plan(name, shape, self._calls(method, values, shape), True))
            except InvalidInput:
                raise
            except Exception as error:
                failure = failure or error
                tried[way] = None
        assert failure is not None
        ways = ", ".join(tried)
        if len(captured.donors(method.name)) > 1 and seed:
            self._not_made[_sizes_text(shape)] = first_line(failure)
            return None
        example = {name: captured.given_sizes[name] for name in shape}
        tie = proposal(self._runner, method, captured.given[method.name], example)
        raise InvalidInput(
            f"{method.name} fails in eager mode at {_sizes_text(shape)}, which lies within dims: "
            f"{first_line(failure)}. {tie}{'. ' if tie else ''}Tried were the example's values "
            f"{ways}. If the module cannot serve that size, narrow the range in dims; if its "
            "inputs have to fit each other, give real calls at several sizes: examples=[...]"
        ) from failure

    def _made(
        self, method: Method, shape: Mapping[str, int], seed: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        captured = self._captured
        donors = captured.donors(method.name)
        if all(captured.given_sizes.get(name) == size for name, size in shape.items()):
            # The example itself is first at its own sizes.
            donors = donors[:1]
        return made_values(donors, method.inputs, captured.dynamic, shape, seed)

    def _user_example(self, method: Method, donor: Donor, at: int) -> _Run:
        shape = {name: donor.sizes[name] for name in self._dims_of(method)}
        calls = self._calls(method, dict(donor.values), shape)
        try:
            return self._run(_Plan(self._name(method, shape), shape, calls, True))
        except Exception as error:
            raise InvalidInput(
                f"a call of examples fails in eager mode ({_sizes_text(shape)}, the number "
                f"{at + 1} beside the example): {first_line(error)}"
            ) from error

    def _user_probe(self, method: Method, probe: Mapping[str, Any], at: int) -> _Run:
        names = {input_spec.name for input_spec in method.inputs}
        if set(probe) != names:
            wrong = ", ".join(sorted(set(probe) ^ names))
            raise InvalidInput(
                f"probes[{at}]: expected exactly the inputs {', '.join(sorted(names))}; missing or "
                f"unknown: {wrong}"
            )
        shape = bind_sizes(
            (dim, int(probe[name].shape[axis]))
            for name, axes in self._captured.dynamic.items()
            if name in names
            for axis, dim in axes.items()
        )
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
            name = self._unique(f"{base.plan.name}-{kind}")
            run = self._first_run(name, base, at, values)
            if run is None:
                continue
            if _has_nan(run.golden) and not _has_nan(base.golden):
                self._left_out(name, "eager gives NaN for it")
                continue
            yield run

    def _first_run(self, name: str, base: _Run, at: int, values: dict[str, Any]) -> _Run | None:
        """Returns a run with other values in one call, or, where it fails, with other floats only.

        None, with a note, when eager fails on both.
        """
        method, own = base.plan.calls[at]
        failure: Exception | None = None
        for attempt in (values, _with_integers_of(own, values)):
            calls = [*base.plan.calls]
            calls[at] = (method, attempt)
            if failure is not None and not differs(attempt, own):
                break
            try:
                return self._run(_Plan(name, base.plan.dims, calls, False))
            except Exception as error:
                failure = failure or error
        assert failure is not None
        self._left_out(name, f"eager itself fails on it ({first_line(failure)})")
        return None

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
            result, effects = self._runner.call_watched(method, values)
            self._notice(name, effects)
            tree, leaves = returns_tree(f"{type(captured.module).__name__}.{name}", result)
            outputs = {key: _stored(tensor) for key, tensor in tensors_of(leaves).items()}
            written = {written_name(key): _stored(effects.after[key]) for key in effects.written}
            steps.append(Step(name, inputs, {**outputs, **written}))
            typed = {
                key: outputs[key] if isinstance(value, Tensor) else value
                for key, value in leaves.items()
            }
            observed.append((name, Observed(plan.name, plan.dims, tree, typed)))
        return _Run(plan, Golden(plan.name, dict(plan.dims), tuple(steps)), tuple(observed))

    def _notice(self, name: str, effects: Effects) -> None:
        """Adds inputs that only some calls write to the signature."""
        known = self._captured.method(name)
        method, notes = with_effects(known, [effects])
        self._notes += [note for note in notes if note not in self._notes]
        if method.writes != known.writes:
            methods = [method if m.name == name else m for m in self._captured.methods]
            self._captured = replace(self._captured, methods=tuple(methods))

    def _with_written(self, run: _Run) -> _Run:
        """Adds the inputs that other calls write, as this run left them."""
        steps = tuple(
            with_written(self._captured.method(step.method), step) for step in run.golden.steps
        )
        return replace(run, golden=replace(run.golden, steps=steps))

    def _with_outputs(self, method: Method, runs: Sequence[_Run]) -> Method:
        calls = [call for run in runs for name, call in run.observed if name == method.name]
        complete = infer_outputs(method, calls, self._captured.program.get(method.name))
        self._notes += without_example(complete, calls)
        return complete

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

    def _left_out(self, name: str, reason: str) -> None:
        self._notes.append(Hazard("golden_left_out", "info", f"golden {name} left out: {reason}"))


def _sizes_text(shape: Mapping[str, int]) -> str:
    """Returns "batch=2, sequence=14" for messages."""
    return ", ".join(f"{name}={size}" for name, size in shape.items()) or "the example"


def _untried_sizes(
    dims: Mapping[str, DimRange], shapes: Sequence[Mapping[str, int]]
) -> list[Hazard]:
    """Returns a hazard for each dimension whose largest sizes were too costly to run."""
    notes = []
    for name, size in dims.items():
        tried = [shape[name] for shape in shapes if name in shape]
        if tried and max(tried) < size.max:
            notes.append(
                Hazard(
                    "untried_sizes",
                    "warning",
                    f'no size of "{name}" above {max(tried)} was tried, of up to {size.max}: such '
                    "calls are too large for an export",
                    remedy="give an example at the largest size that you serve, or narrow dims",
                )
            )
    return notes


def _unproven_sizes(not_made: Mapping[str, str]) -> Hazard:
    (first, reason), count = next(iter(not_made.items())), len(not_made)
    return Hazard(
        "unproven_sizes",
        "warning",
        f"eager accepts no values made from the examples at {count} shapes, the first at {first} "
        f"({reason}); these are proven at the sizes of the examples only",
    )


def _stored(tensor: Tensor) -> Tensor:
    """Returns a copy of a tensor as a golden holds it: on the CPU and contiguous."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _with_errors(run: _Run, errors: Sequence[dict[str, Tensor]]) -> _Run:
    steps = tuple(
        replace(step, errors=own) for step, own in zip(run.golden.steps, errors, strict=True)
    )
    return replace(run, golden=replace(run.golden, steps=steps))


def _with_integers_of(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with the tensors of integers that the base has."""
    return {
        name: own[name] if isinstance(value, Tensor) and not is_float(value) else value
        for name, value in values.items()
    }


def _has_nan(golden: Golden) -> bool:
    return any(
        bool(value.isnan().any())
        for step in golden.steps
        for value in step.outputs.values()
        if is_float(value)
    )
