"""Which engine, artifact and number of threads is the fastest here: proven, measured, kept."""

from __future__ import annotations

import datetime
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Artifact
from isthmus.document import Document, Table
from isthmus.errors import Error, ExecutionError, InvalidInput
from isthmus.proof.jobs import Job, prove_without_python
from isthmus.proof.verify_report import VerifyRow
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.engines import engines_of
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.workers import available_cores
from isthmus.timing.bench_report import BenchRow
from isthmus.timing.turns import Plan, Turntaker, finish, start_native, take_turns, warm_up

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["FILE", "Candidate", "TuneReport", "tune"]

FILE = "tuning.json"
_VERSION = 1
_SHAPES = 3


@dataclass(frozen=True)
class Candidate:
    """One way to run the bundle, and how fast it was."""

    artifact: str
    engine: str
    threads: int
    medians_ms: dict[str, float] = field(default_factory=dict)
    """Median duration of a call by golden."""
    reason: str = ""
    """Why it does not stand for choice."""
    precision: str = "fp32"
    """Of the artifact."""

    @property
    def rank(self) -> tuple[bool, float]:
        """What candidates are ordered by: a load must not lose precision because it is faster."""
        return self.precision != "fp32", self.score

    @property
    def score(self) -> float:
        """Geometric mean of the medians: every shape counts alike. Infinite without numbers."""
        if self.reason or not self.medians_ms:
            return math.inf
        logs = [math.log(one) for one in self.medians_ms.values()]
        return math.exp(sum(logs) / len(logs))

    @property
    def label(self) -> str:
        """ "onnx-cpu-fp32 on onnxruntime with 2 threads"."""
        noun = "thread" if self.threads == 1 else "threads"
        return f"{self.artifact} on {self.engine} with {self.threads} {noun}"


@dataclass(frozen=True)
class TuneReport:
    """Every candidate, the fastest first; truthy when there is one."""

    bundle: str
    device: str
    machine: str
    """`isthmus::machine_key` of this machine."""
    candidates: tuple[Candidate, ...]
    goldens: tuple[str, ...]
    context: dict[str, str]
    file: Path | None = None
    """Where the choice was written."""

    def __bool__(self) -> bool:
        return self.best is not None

    @property
    def best(self) -> Candidate | None:
        """The fastest that verified; in fp32, where one in fp32 did."""
        usable = [candidate for candidate in self.candidates if math.isfinite(candidate.score)]
        return min(usable, key=lambda one: one.rank, default=None)

    def document(self) -> Document:
        """What to print."""
        best = self.best
        rows = []
        for one in self.candidates:
            cells = [
                f"{one.medians_ms[golden]:.3g}" if golden in one.medians_ms else "-"
                for golden in self.goldens
            ]
            ratio = f"{one.score / best.score:.2f}" if best and math.isfinite(one.score) else "-"
            rows.append((one.engine, one.artifact, str(one.threads), *cells, ratio, one.reason))
        verdict = (
            f"{best.label} is the fastest of those that verified" if best else "nothing verified"
        )
        faster = [
            candidate for candidate in self.candidates if best and candidate.score < best.score
        ]
        if best and faster:
            verdict = (
                f"{best.label} is the fastest in fp32; {faster[0].label} takes "
                f"{faster[0].score / best.score:.2f} of its time, for who asks for that artifact"
            )
        if self.file is not None:
            verdict += f"; {self.file} says so to every load on this machine"
        return Document(
            title=f"isthmus tune: {self.bundle} on {self.device}",
            schema="isthmus-tune",
            schema_version=1,
            context=self.context,
            tables=(
                Table(
                    "Median of a call in C++, milliseconds, by golden",
                    ("engine", "artifact", "threads", *self.goldens, "of the best", "why not"),
                    tuple(rows),
                    marks=tuple(
                        candidate is best or (None if not candidate.reason else False)
                        for candidate in self.candidates
                    ),
                    numeric=frozenset({"threads", *self.goldens, "of the best"}),
                ),
            ),
            passed=bool(self),
            verdict=verdict,
            rows=tuple(
                {
                    **asdict(candidate),
                    "score_ms": candidate.score if math.isfinite(candidate.score) else None,
                }
                for candidate in self.candidates
            ),
            extra={"machine": self.machine, "best": asdict(best) if best else None},
        )


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
    timeout: float = 300.0,
    seed: int = 0,
    write: bool = True,
    progress: Callable[[str], None] | None = None,
) -> TuneReport:
    """Times every engine on every artifact with several numbers of threads, in C++.

    Each candidate is proven on all goldens first (`isthmus-run verify`); one that fails does not
    stand for choice. Each runs in a process of its own, and they take turns. The choice is written
    to `tuning.json` beside the manifest, keyed by machine and device; `load(engine="auto")` reads
    it.

    Args:
        path: The bundle.
        device: "cpu", "cuda" or "cuda:N".
        engines: Only these; None: all that are installed.
        threads: Numbers of threads to try; None: 1, half of the processors, and all.
        goldens: Shapes to time, by golden; None: the first for warm-up, the smallest, the largest.
        rounds: Turns of each candidate on each shape; at least 2.
        turn_seconds: About how long a turn takes.
        trust: "native" lets native code take part.
        op_libraries: Libraries of custom operators to open first.
        timeout: Seconds that a process may say nothing.
        seed: Of the order of turns.
        write: Whether to write tuning.json.
        progress: Called with a line at each stage.

    Raises:
        BundleError: `path` is no good bundle.
        InvalidInput: An unknown golden or device, or nothing to measure.
    """
    from isthmus import _core
    from isthmus.bundle.bundle import Bundle, open_bundle

    bundle = path if isinstance(path, Bundle) else open_bundle(Path(path))
    say = progress or (lambda _: None)
    _check_device(device)
    if rounds < 2:
        raise InvalidInput(f"rounds is {rounds}, expected at least 2")
    names = tuple(goldens) if goldens is not None else _shapes(bundle)
    for name in names:
        bundle.golden(name)
    counts = _counts(threads)
    ways = [
        (artifact, engine)
        for artifact in bundle.manifest.artifacts
        if device.partition(":")[0] in artifact.devices
        for engine in engines_of(artifact.format)
        if engines is None or engine in engines
    ]
    if not ways:
        raise InvalidInput(f"no engine here runs an artifact of {bundle.path} on {device}")
    with tempfile.TemporaryDirectory(prefix="isthmus-tune-") as folder:
        plan = Plan(
            bundle=bundle,
            artifact=None,
            golden=names[0],
            threads=counts[-1],
            trust=trust,
            op_libraries=tuple(str(library) for library in op_libraries),
            model="",
            timeout=timeout,
            native_arguments=(),
            folder=Path(folder),
        )
        found: list[Candidate] = []
        for artifact, engine in ways:
            reason = _refusal(plan, artifact, engine, device, say)
            found += [
                Candidate(artifact.name, engine, count, reason=reason, precision=artifact.precision)
                for count in counts
            ]
        for name in names:
            found = _time(
                replace(plan, golden=name), found, device, rounds, turn_seconds, seed, say
            )
    found.sort(key=lambda one: one.score)
    report = TuneReport(
        bundle=bundle.manifest.name,
        device=device,
        machine=_core.machine_key(),
        candidates=tuple(found),
        goldens=names,
        context={
            "bundle": str(bundle.path),
            **machine_facts(),
            "method": f"{rounds} rounds on each shape, one process a candidate, taking turns",
        },
    )
    if write and report.best is not None:
        return replace(report, file=_write(bundle, report))
    return report


def _check_device(device: str) -> None:
    present = devices_present()
    kind = device.partition(":")[0]
    if kind not in present:
        raise InvalidInput(f"device {device!r} is unknown, expected 'cpu', 'cuda' or 'cuda:N'")
    if present[kind]:
        raise InvalidInput(f"{device}: {present[kind]}")


def _shapes(bundle: Bundle) -> tuple[str, ...]:
    """The first golden for warm-up, the smallest and the largest, by their sizes."""
    entries = list(bundle.manifest.goldens)
    if not entries:
        raise InvalidInput("the bundle has no goldens to time with; export it again")
    entries.sort(key=lambda entry: math.prod(entry.dims.values()))
    first = [entry for entry in entries if entry.name in bundle.manifest.warmup[:1]]
    chosen = [*first, entries[0], entries[-1]]
    distinct = {tuple(sorted(one.dims.items())): one.name for one in reversed(chosen)}
    return tuple(reversed(distinct.values()))[:_SHAPES]


def _counts(threads: Sequence[int] | None) -> tuple[int, ...]:
    cores = available_cores()
    counts = sorted(set(threads if threads is not None else (1, max(1, cores // 2), cores)))
    if not counts or counts[0] < 1:
        raise InvalidInput(f"threads: expected positive numbers, got {list(threads or ())}")
    return tuple(counts)


def _refusal(
    plan: Plan, artifact: Artifact, engine: str, device: str, say: Callable[[str], None]
) -> str:
    """Why this way may not be chosen; empty when it gives the goldens' answers."""
    if artifact.trust == "native" and plan.trust != "native":
        return "native code, which was not allowed (--allow-native)"
    say(f"proving {artifact.name} on {engine}")
    job = Job(
        bundle=plan.bundle,
        goldens=plan.bundle.goldens(),
        threads=plan.threads,
        trust=plan.trust,
        op_libraries=plan.op_libraries,
        timeout=plan.timeout,
        folder=plan.folder,
        say=say,
    )
    row = VerifyRow(engine, "C++", device, "passed", artifact=artifact.name)
    row, _ = prove_without_python(job, row)
    return "" if row else row.reason or row.status


def _time(
    plan: Plan,
    candidates: Sequence[Candidate],
    device: str,
    rounds: int,
    turn_seconds: float,
    seed: int,
    say: Callable[[str], None],
) -> list[Candidate]:
    """The candidates with their medians on the plan's golden."""
    runners: list[Turntaker] = []
    try:
        for candidate in candidates:
            runner = Turntaker(BenchRow(candidate.label, "C++", device))
            runners.append(runner)
            if candidate.reason:
                continue
            say(f"{plan.golden}: starting {candidate.label}")
            spec = EngineSpec(
                kind="isthmus",
                bundle=str(plan.bundle.path.resolve()),
                artifact=candidate.artifact,
                engine=candidate.engine,
                device=device,
                threads=candidate.threads,
                optimize="auto",
                trust=plan.trust,
                op_libraries=plan.op_libraries,
            )
            try:
                start_native(plan, spec, runner)
            except (Error, OSError) as error:
                runner.fail(str(error))
        warm_up(runners, turn_seconds, plan.timeout, say)
        take_turns(runners, rounds, random.Random(seed), plan.timeout, say)
        rows = [finish(runner, plan.timeout) for runner in runners]
    finally:
        for runner in runners:
            if runner.worker is not None:
                runner.worker.close()
    result = []
    for candidate, row in zip(candidates, rows, strict=True):
        if row.summary is None:
            result.append(
                replace(candidate, reason=candidate.reason or row.unavailable or "no number")
            )
        else:
            medians = {**candidate.medians_ms, plan.golden: row.summary.median_ms}
            result.append(replace(candidate, medians_ms=medians))
    return result


def _ranking(report: TuneReport) -> list[Candidate]:
    """Each artifact on each engine once, with its best number of threads, as `load` tries them."""
    ranking: dict[tuple[str, str], Candidate] = {}
    for one in sorted(report.candidates, key=lambda candidate: candidate.rank):
        if math.isfinite(one.score):
            ranking.setdefault((one.artifact, one.engine), one)
    return list(ranking.values())


def _write(bundle: Bundle, report: TuneReport) -> Path:
    """Replaces this machine's entry and keeps those of other machines."""
    path = bundle.path / FILE
    now = datetime.datetime.now(datetime.timezone.utc)
    kind = report.device.partition(":")[0]
    entry: dict[str, Any] = {
        "machine": report.machine,
        "device": kind,
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ranking": [
            {
                "artifact": one.artifact,
                "engine": one.engine,
                "threads": one.threads,
                "sha256": bundle.artifact(one.artifact).files[0].sha256,
            }
            for one in _ranking(report)
        ],
        "candidates": [
            {
                "artifact": candidate.artifact,
                "engine": candidate.engine,
                "threads": candidate.threads,
                "medians_ms": candidate.medians_ms,
                "reason": candidate.reason,
            }
            for candidate in report.candidates
        ],
    }
    kept = [
        machine
        for machine in _machines(path)
        if (machine.get("machine"), machine.get("device")) != (report.machine, kind)
    ]
    document = {
        "format": "isthmus-tuning",
        "format_version": _VERSION,
        "machines": [*kept, entry],
    }
    with tempfile.NamedTemporaryFile(
        "w", dir=bundle.path, prefix=f".{FILE}.", delete=False, encoding="utf-8"
    ) as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    temporary = Path(file.name)
    try:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ExecutionError(f"{path} cannot be written ({error}); pass --no-write") from error
    return path


def _machines(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        machines = document["machines"] if document["format"] == "isthmus-tuning" else []
        return [machine for machine in machines if isinstance(machine, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
