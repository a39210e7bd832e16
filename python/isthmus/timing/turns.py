"""Times rows by letting their worker processes take turns, each on its own.

The processes live side by side, but only one works at a time: in each round every worker takes a
turn, in random order, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from isthmus.errors import Error
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.run_options import RunOptions
from isthmus.runtime.workers import LineWorker, python_worker
from isthmus.timing.bench_row import BenchRow
from isthmus.timing.statistics import summarize

__all__ = ["DISCARDED", "TimedRow", "measure"]

DISCARDED = 2
"""Calls at the start of each turn that are not counted: the caches were another process's."""
LEAST_CALLS = 5
"""The least number of calls in one turn."""
SLOW_MS = 200
"""The duration from which calls are slow. Slow calls need fewer samples."""
LEAST_SLOW_CALLS = 2
"""The least number of slow calls in one turn."""


@dataclass
class TimedRow:
    """A row while it is measured, with the engine that it runs."""

    row: BenchRow
    spec: EngineSpec | None = None
    """The engine that the worker loads; None when the row is unavailable."""
    golden: str = ""
    """The golden whose inputs are called."""
    name: str = ""
    """The name in progress lines."""
    group: str = ""
    """The group of rows that make the same number of calls in a turn."""
    worker: LineWorker | None = None
    calls: int = 0
    """The number of counted calls in one turn."""
    turns: list[tuple[float, ...]] = field(default_factory=list)
    """The durations of the counted calls of each turn, in milliseconds."""

    def fail(self, reason: str) -> None:
        """Ends the worker; the row gets the reason instead of numbers."""
        self.row = replace(self.row, unavailable=reason)
        self.turns.clear()
        self.close()

    def close(self) -> None:
        """Ends the worker if it lives."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def measure(
    timed: Sequence[TimedRow],
    options: RunOptions,
    *,
    rounds: int,
    turn_seconds: float,
    seed: int,
    native_arguments: Sequence[str] = (),
) -> list[BenchRow]:
    """Times all rows that have a spec, and returns the rows with their numbers.

    Args:
        timed: The rows. A worker that fails turns its row into a reason.
        options: Has the timeout and the progress.
        rounds: The number of turns of each row.
        turn_seconds: About how long a turn takes.
        seed: The seed of the order of turns.
        native_arguments: Further arguments of `isthmus-run bench`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="isthmus-timing-") as folder:
            for timed_row in timed:
                # One after the other: a load is timed too, and must not share the machine.
                _start(timed_row, options, Path(folder), native_arguments)
            _warm_up(timed, options, turn_seconds)
            _take_turns(timed, options, rounds, random.Random(seed))
            return [_finish(timed_row, options.timeout) for timed_row in timed]
    finally:
        for timed_row in timed:
            timed_row.close()


def _start(
    timed: TimedRow, options: RunOptions, folder: Path, native_arguments: Sequence[str]
) -> None:
    spec = timed.spec
    if spec is None:
        return
    options.say(f"starting {timed.name}")
    try:
        if timed.row.language == "C++":
            command = [*_native_command(spec, timed.golden), *native_arguments]
        else:
            command = _python_command(spec, timed.golden, folder)
        timed.worker = LineWorker(command, threads=spec.threads)
        ready = timed.worker.receive(options.timeout)
    except (Error, OSError, ImportError) as error:
        timed.fail(str(error))
        return
    timed.row = replace(
        timed.row,
        artifact=spec.artifact,
        runtime=str(ready.get("runtime", "")),
        flags={"threads": str(ready.get("threads", "")), "optimize": spec.optimize},
        load_ms=float(ready["load_ms"]),
        warmup_ms=float(ready.get("warmup_ms", 0.0)),
        warnings=tuple(str(text) for text in ready.get("warnings", ())),
        first_call_ms=float(ready["first_call_ms"]),
    )


def _python_command(spec: EngineSpec, golden: str, folder: Path) -> list[str]:
    with tempfile.NamedTemporaryFile(
        "w", suffix=".json", dir=folder, delete=False, encoding="utf-8"
    ) as file:
        json.dump({"spec": spec.to_json(), "golden": golden}, file)
    return python_worker("isthmus.timing.bench_worker", file.name)


def _native_command(spec: EngineSpec, golden: str) -> list[str]:
    from isthmus.runtime import install_paths

    program = [str(install_paths.binary()), "bench", spec.bundle, "--worker", "--golden", golden]
    return [*program, *spec.arguments(), "--optimize", spec.optimize]


def _run(timed: TimedRow, calls: int, timeout: float) -> list[float]:
    """Runs one turn; returns the durations in milliseconds, or nothing when the worker failed."""
    if timed.worker is None:
        return []
    timed.worker.send(f"run {calls}")
    try:
        samples = [float(sample) for sample in timed.worker.receive(timeout)["samples_ms"]]
        if len(samples) != calls:
            raise ValueError(f"the worker gave {len(samples)} samples, expected {calls}")
    except (Error, KeyError, ValueError) as error:
        timed.fail(f"failed while it was timed: {error}")
        return []
    return samples


def _warm_up(timed: Sequence[TimedRow], options: RunOptions, turn_seconds: float) -> None:
    """Calls each worker until it is steady, then sets the calls of a turn, alike in a group."""
    for timed_row in timed:
        if timed_row.worker is None:
            continue
        options.say(f"warming up {timed_row.name}")
        previous = float("inf")
        least = LEAST_CALLS
        for _ in range(10):
            samples = _run(timed_row, least, options.timeout)
            if not samples:
                break
            median = summarize(samples).median_ms
            least = LEAST_CALLS if median < SLOW_MS else LEAST_SLOW_CALLS
            steady = median > 0.9 * previous
            previous = median
            if steady:
                break
        timed_row.calls = max(least, min(1000, int(turn_seconds * 1e3 / max(previous, 1e-3))))
    alive = [timed_row for timed_row in timed if timed_row.worker is not None]
    fewest = {
        group: min(timed_row.calls for timed_row in alive if timed_row.group == group)
        for group in {timed_row.group for timed_row in alive}
    }
    for timed_row in alive:
        timed_row.calls = fewest[timed_row.group]


def _take_turns(
    timed: Sequence[TimedRow], options: RunOptions, rounds: int, order: random.Random
) -> None:
    """Lets every living worker take a turn in each round, in random order."""
    for number in range(1, rounds + 1):
        if number == 1 or number % 10 == 0:
            options.say(f"round {number} of {rounds}")
        alive = [timed_row for timed_row in timed if timed_row.worker is not None]
        order.shuffle(alive)
        for timed_row in alive:
            samples = _run(timed_row, timed_row.calls + DISCARDED, options.timeout)
            if samples:
                timed_row.turns.append(tuple(samples[DISCARDED:]))


def _finish(timed: TimedRow, timeout: float) -> BenchRow:
    """Asks for the peak memory, ends the worker, and returns the row with its numbers."""
    if timed.worker is None:
        return timed.row
    timed.worker.send("quit")
    peak: int | None = None
    # Without an answer the durations stand, and only the memory is unknown.
    with contextlib.suppress(Error, KeyError):
        peak = int(timed.worker.receive(timeout)["peak_rss_bytes"])
    timed.close()
    return replace(timed.row, rounds_ms=tuple(timed.turns), peak_rss_bytes=peak)
