"""The worker processes of a benchmark: started, warmed up, taking turns, ended."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import Artifact
from isthmus.capture.load_model import no_model
from isthmus.errors import Error
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.engines import ENGINES_IN_PYTHON, EngineInPython, engines_of
from isthmus.runtime.workers import LineWorker, python_worker
from isthmus.timing.bench_report import BenchRow
from isthmus.timing.statistics import summarize

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

_FORMATS = {"torchscript": "TorchScript", "onnx": "ONNX", "aoti": "AOTInductor"}
DISCARDED = 2
"""Calls thrown away at the start of each turn: the caches belonged to another process."""
LEAST_CALLS = 5
"""Of a turn."""
SLOW_MS = 200
"""A call that takes as long says as much in fewer, and keeps nobody waiting for a minute."""
LEAST_SLOW_CALLS = 2
NO_EAGER_CPP = "an eager Python module has no form in C++; its TorchScript has"
EAGER = "Torch"
OPTIMISED = " optimised"
"""Behind a form's name: rewritten at load, in the same way in both languages."""


@dataclass(frozen=True)
class Plan:
    """What holds for all rows of one call of `bench`."""

    bundle: Bundle
    artifact: Artifact | None
    golden: str
    threads: int
    trust: str
    op_libraries: tuple[str, ...]
    model: str
    timeout: float
    native_arguments: tuple[str, ...]
    folder: Path


@dataclass
class Turntaker:
    """A row with its living worker, while it is measured."""

    row: BenchRow
    worker: LineWorker | None = None
    calls: int = 0
    turns: list[tuple[float, ...]] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        """Ends the worker; the row keeps the reason instead of numbers."""
        self.row = replace(self.row, unavailable=reason)
        self.turns.clear()
        if self.worker is not None:
            self.worker.close()
            self.worker = None


@contextmanager
def workers(
    plan: Plan, rows: Sequence[BenchRow], present: dict[str, str], say: Callable[[str], None]
) -> Iterator[list[Turntaker]]:
    """Starts one worker after the other: a load is timed too, and must not share the machine."""
    runners = [Turntaker(row) for row in rows]
    try:
        for runner in runners:
            absent = _why_unavailable(plan, runner.row, present)
            if absent:
                runner.fail(absent)
                continue
            say(f"starting {runner.row.label}")
            try:
                _start(plan, runner)
            except (Error, OSError, ImportError) as error:
                runner.fail(str(error))
        yield runners
    finally:
        for runner in runners:
            if runner.worker is not None:
                runner.worker.close()


def engine_of(form: str) -> str:
    """The engine that a form's name means; empty for the eager module."""
    title = form.removesuffix(OPTIMISED)
    return next((runtime.engine for runtime in ENGINES_IN_PYTHON if runtime.title == title), "")


def _runtime_of(form: str) -> EngineInPython:
    return next(runtime for runtime in ENGINES_IN_PYTHON if runtime.engine == engine_of(form))


def _artifact_for(plan: Plan, form: str, device: str) -> Artifact | None:
    kind = device.partition(":")[0]
    candidates = (plan.artifact,) if plan.artifact is not None else plan.bundle.manifest.artifacts
    format = _runtime_of(form).format
    fitting = [
        candidate
        for candidate in candidates
        if candidate is not None and candidate.format == format and kind in candidate.devices
    ]
    fitting.sort(key=lambda one: one.device != kind)
    return fitting[0] if fitting else None


def _why_unavailable(plan: Plan, row: BenchRow, present: dict[str, str]) -> str:
    if row.form == EAGER and row.language == "C++":
        return NO_EAGER_CPP
    kind = row.device.partition(":")[0]
    if present[kind]:
        return present[kind]
    if row.form == EAGER:
        return "" if plan.model else no_model(plan.bundle.manifest.source)
    runtime = _runtime_of(row.form)
    artifact = _artifact_for(plan, row.form, row.device)
    if artifact is None:
        name = _FORMATS.get(runtime.format, runtime.format)
        return f"the bundle has no {name} artifact for {kind}"
    if artifact.trust == "native" and plan.trust != "native":
        return 'it is native code: allow it with trust="native" (--allow-native)'
    if row.language == "Python":
        if kind not in runtime.devices:
            return f"isthmus calls {runtime.name} in Python on {', '.join(runtime.devices)} only"
        return runtime.absent
    if runtime.engine not in engines_of(runtime.format):
        return f"the engine {runtime.engine} is not installed"
    return ""


def _start(plan: Plan, runner: Turntaker) -> None:
    row = runner.row
    artifact = None if row.form == EAGER else _artifact_for(plan, row.form, row.device)
    spec = EngineSpec(
        kind="eager" if row.form == EAGER else _runtime_of(row.form).name,
        bundle=str(plan.bundle.path.resolve()),
        artifact=artifact.name if artifact is not None else "",
        engine=engine_of(row.form),
        device=row.device,
        threads=plan.threads,
        optimize=_optimize(row),
        trust=plan.trust,
        op_libraries=plan.op_libraries,
        model=plan.model,
    )
    if row.language == "C++":
        start_native(plan, spec, runner)
    else:
        _launch(plan, spec, runner, _python_command(plan, spec))


def start_native(plan: Plan, spec: EngineSpec, runner: Turntaker) -> None:
    """Starts `isthmus-run bench --worker` for a row.

    Raises:
        ExecutionError: It could not load, or ended; says why.
    """
    _launch(plan, spec, runner, _native_command(plan, spec))


def _launch(plan: Plan, spec: EngineSpec, runner: Turntaker, command: Sequence[str]) -> None:
    runner.worker = LineWorker(command, threads=spec.threads)
    ready = runner.worker.receive(plan.timeout)
    runner.row = replace(
        runner.row,
        artifact=spec.artifact,
        runtime=str(ready.get("runtime", "")),
        flags={"threads": str(ready.get("threads", "")), "optimize": spec.optimize},
        load_ms=float(ready["load_ms"]),
        warmup_ms=float(ready.get("warmup_ms", 0.0)),
        warnings=tuple(str(text) for text in ready.get("warnings", ())),
        first_call_ms=float(ready["first_call_ms"]),
    )


def _optimize(row: BenchRow) -> str:
    if row.form.endswith(OPTIMISED):
        # Prepacking is for the CPU.
        return "inference" if row.device == "cpu" else "freeze"
    # Where both languages run the graph as it is, that is compared; else the runtime's own default.
    return "none" if row.form == EAGER or _runtime_of(row.form).optimizes else "auto"


def _python_command(plan: Plan, spec: EngineSpec) -> list[str]:
    with tempfile.NamedTemporaryFile(
        "w", suffix=".json", dir=plan.folder, delete=False, encoding="utf-8"
    ) as file:
        json.dump({"spec": spec.to_json(), "golden": plan.golden}, file)
    return python_worker("isthmus.timing.bench_worker", file.name)


def _native_command(plan: Plan, spec: EngineSpec) -> list[str]:
    from isthmus.runtime import install_paths

    command = [
        str(install_paths.binary()),
        "bench",
        spec.bundle,
        "--worker",
        "--golden",
        plan.golden,
    ]
    command += ["--artifact", spec.artifact, "--engine", spec.engine, "--device", spec.device]
    command += ["--threads", str(spec.threads), "--trust", spec.trust, "--optimize", spec.optimize]
    for library in spec.op_libraries:
        command += ["--op-library", library]
    return [*command, *plan.native_arguments]


def _run(runner: Turntaker, calls: int, timeout: float) -> list[float]:
    """One turn; a worker that dies turns its row into a reason."""
    if runner.worker is None:
        return []
    runner.worker.send(f"run {calls}")
    try:
        samples = [float(one) for one in runner.worker.receive(timeout)["samples_ms"]]
        if len(samples) != calls:
            raise ValueError(f"the worker gave {len(samples)} samples, expected {calls}")
    except (Error, KeyError, ValueError) as error:
        runner.fail(f"failed while it was timed: {error}")
        return []
    return samples


def warm_up(
    runners: Sequence[Turntaker], turn_seconds: float, timeout: float, say: Callable[[str], None]
) -> None:
    """Calls each until it is steady, then sets how many calls a turn has, alike for one form."""
    for runner in runners:
        if runner.worker is None:
            continue
        say(f"warming up {runner.row.label}")
        previous = float("inf")
        least = LEAST_CALLS
        for _ in range(10):
            samples = _run(runner, least, timeout)
            if not samples:
                break
            median = summarize(samples).median_ms
            least = LEAST_CALLS if median < SLOW_MS else LEAST_SLOW_CALLS
            steady = median > 0.9 * previous
            previous = median
            if steady:
                break
        runner.calls = max(least, min(1000, int(turn_seconds * 1e3 / max(previous, 1e-3))))
    for runner in runners:
        alike = [one for one in runners if one.worker is not None and _pair(one) == _pair(runner)]
        runner.calls = min((one.calls for one in alike), default=0)


def _pair(runner: Turntaker) -> tuple[str, str]:
    return runner.row.form, runner.row.device


def take_turns(
    runners: Sequence[Turntaker],
    rounds: int,
    order: random.Random,
    timeout: float,
    say: Callable[[str], None],
) -> None:
    """Every living worker once a round, in random order."""
    for number in range(1, rounds + 1):
        if number == 1 or number % 10 == 0:
            say(f"round {number} of {rounds}")
        alive = [runner for runner in runners if runner.worker is not None]
        order.shuffle(alive)
        for runner in alive:
            samples = _run(runner, runner.calls + DISCARDED, timeout)
            if samples:
                runner.turns.append(tuple(samples[DISCARDED:]))


def finish(runner: Turntaker, timeout: float) -> BenchRow:
    """Asks for the peak memory, ends the worker, and gives the row with its numbers."""
    if runner.worker is None:
        return runner.row
    runner.worker.send("quit")
    peak: int | None = None
    # Without an answer the durations stand; only the memory is not known.
    with contextlib.suppress(Error, KeyError):
        peak = int(runner.worker.receive(timeout)["peak_rss_bytes"])
    runner.worker.close()
    runner.worker = None
    return replace(runner.row, rounds_ms=tuple(runner.turns), peak_rss_bytes=peak)
