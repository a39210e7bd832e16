"""Finds the fastest engine, artifact and number of threads here: proven, measured and kept."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import Artifact
from isthmus.errors import InvalidInput
from isthmus.proof.jobs import Job, prove_without_python
from isthmus.proof.verify_report import VerifyRow
from isthmus.runtime.engines import RowKind, engines_of
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.run_options import RunOptions, check_rounds
from isthmus.runtime.workers import available_cores
from isthmus.timing.bench import TIMEOUT
from isthmus.timing.bench_row import BenchRow
from isthmus.timing.tune_report import Candidate, TuneReport
from isthmus.timing.tuning_file import FILE, write_tuning
from isthmus.timing.turns import TimedRow, measure

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["FILE", "Candidate", "TuneReport", "tune", "tune_bundle"]

_SHAPES = 3
"""The largest number of goldens that are timed by default."""


def tune(
    path: str | Path | Bundle,
    *,
    device: str = "cpu",
    engines: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    goldens: Sequence[str] | None = None,
    rounds: int = 8,
    turn_seconds: float = 0.1,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    timeout: float = TIMEOUT,
    seed: int = 0,
    write: bool = True,
    progress: Callable[[str], None] | None = None,
) -> TuneReport:
    """Times every engine on every artifact with several numbers of threads, in C++.

    Each candidate is proven on all goldens first (`isthmus-run verify`); one that fails cannot be
    chosen. Each runs in a process of its own, and they take turns. The choice is written to
    `tuning.json` beside the manifest, keyed by machine and device; `load(engine="auto")` reads it.

    Args:
        path: The bundle.
        device: "cpu", "cuda" or "cuda:N".
        engines: Only these; None: all that are installed.
        threads: Numbers of threads to try; None: 1, half of the processors, and all.
        goldens: Shapes to time, by golden; None: the first for warm-up, the smallest, the largest.
        rounds: Turns of each candidate on each shape; at least 2.
        turn_seconds: About how long a turn takes.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        timeout: The seconds that a process may keep silent.
        seed: The seed of the order of turns.
        write: True to write tuning.json.
        progress: Called with a line at each stage.

    Raises:
        BundleError: `path` is no good bundle.
        InvalidInput: An unknown golden or device, or nothing to measure.
        ExecutionError: tuning.json cannot be written.
    """
    options = RunOptions(
        engines=engines,
        devices=(device,),
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return tune_bundle(
        path,
        options,
        threads=threads,
        goldens=goldens,
        rounds=rounds,
        turn_seconds=turn_seconds,
        seed=seed,
        write=write,
    )


def tune_bundle(
    path: str | Path | Bundle,
    options: RunOptions,
    *,
    threads: Sequence[int] | None = None,
    goldens: Sequence[str] | None = None,
    rounds: int = 8,
    turn_seconds: float = 0.1,
    seed: int = 0,
    write: bool = True,
) -> TuneReport:
    """Tunes a bundle under options that several steps share; see `tune`."""
    from isthmus import _core
    from isthmus.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    device = options.device
    kind = device.partition(":")[0]
    absent = devices_present()[kind]
    if absent:
        raise InvalidInput(f"{device}: {absent}")
    check_rounds(rounds)
    names = tuple(goldens) if goldens is not None else _shapes(bundle)
    for name in names:
        bundle.golden(name)
    counts = _counts(threads)
    engines = [
        (artifact, engine)
        for artifact in bundle.manifest.artifacts
        if kind in artifact.devices
        for engine in engines_of(artifact.format)
        if options.wants(engine)
    ]
    if not engines:
        raise InvalidInput(f"no engine here runs an artifact of {bundle.path} on {device}")
    candidates = _candidates(bundle, engines, replace(options, threads=counts[-1]), counts)
    for name in names:
        candidates = _time(bundle, options, candidates, name, rounds, turn_seconds, seed)
    report = TuneReport(
        bundle=bundle.manifest.name,
        device=device,
        machine=_core.machine_key(),
        candidates=tuple(sorted(candidates, key=lambda candidate: candidate.score)),
        goldens=names,
        context={
            "bundle": str(bundle.path),
            **machine_facts(),
            "method": f"{rounds} rounds on each shape, one process a candidate, taking turns",
        },
    )
    if write and report.best is not None:
        return replace(report, file=write_tuning(bundle, report))
    return report


def _shapes(bundle: Bundle) -> tuple[str, ...]:
    """Returns the first golden for warm-up, the smallest and the largest, by their sizes."""
    entries = list(bundle.manifest.goldens)
    if not entries:
        raise InvalidInput("the bundle has no goldens to time with; export it again")
    entries.sort(key=lambda entry: math.prod(entry.dims.values()))
    first = [entry for entry in entries if entry.name in bundle.manifest.warmup[:1]]
    chosen = [*first, entries[0], entries[-1]]
    distinct = {tuple(sorted(entry.dims.items())): entry.name for entry in reversed(chosen)}
    return tuple(reversed(distinct.values()))[:_SHAPES]


def _counts(threads: Sequence[int] | None) -> tuple[int, ...]:
    cores = available_cores()
    counts = sorted(set(threads if threads is not None else (1, max(1, cores // 2), cores)))
    if not counts or counts[0] < 1:
        raise InvalidInput(f"threads: expected positive numbers, got {list(threads or ())}")
    return tuple(counts)


def _candidates(
    bundle: Bundle,
    engines: Sequence[tuple[Artifact, str]],
    options: RunOptions,
    counts: Sequence[int],
) -> list[Candidate]:
    """Proves each engine on its artifact; one candidate for each number of threads."""
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory(prefix="isthmus-tune-") as folder:
        job = Job(bundle, bundle.goldens(), options, Path(folder))
        for artifact, engine in engines:
            reason = _refusal(job, artifact, engine)
            candidates += [
                Candidate(artifact.name, engine, count, reason=reason, precision=artifact.precision)
                for count in counts
            ]
    return candidates


def _refusal(job: Job, artifact: Artifact, engine: str) -> str:
    """Returns why the engine may not be chosen; empty when it gives the goldens' answers."""
    if artifact.trust == "native" and job.options.trust != "native":
        return "native code, which was not allowed (--allow-native)"
    job.options.say(f"proving {artifact.name} on {engine}")
    row = VerifyRow(engine, "C++", job.options.device, "passed", artifact=artifact.name)
    row, _ = prove_without_python(job, row)
    return "" if row else row.reason or row.status


def _time(
    bundle: Bundle,
    options: RunOptions,
    candidates: Sequence[Candidate],
    golden: str,
    rounds: int,
    turn_seconds: float,
    seed: int,
) -> list[Candidate]:
    """Returns the candidates with their medians on a golden."""
    timed = [
        TimedRow(
            BenchRow(candidate.engine, RowKind.EXPORTED, "C++", options.device),
            spec=None
            if candidate.reason
            else options.spec(
                bundle,
                "isthmus",
                options.device,
                artifact=candidate.artifact,
                engine=candidate.engine,
                threads=candidate.threads,
                optimize="auto",
            ),
            golden=golden,
            name=f"{candidate.label} on {golden}",
            group=candidate.label,
        )
        for candidate in candidates
    ]
    rows = measure(timed, options, rounds=rounds, turn_seconds=turn_seconds, seed=seed)
    result = []
    for candidate, row in zip(candidates, rows, strict=True):
        if row.summary is None:
            reason = candidate.reason or row.unavailable or "no number"
            result.append(replace(candidate, reason=reason))
        else:
            medians = {**candidate.medians_ms, golden: row.summary.median_ms}
            result.append(replace(candidate, medians_ms=medians))
    return result
