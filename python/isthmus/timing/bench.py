"""Times a bundle's model in Python and in C++, each row in a process of its own, taking turns.

Rows come in pairs, Python and C++: "Torch" is the eager module; each engine has one, such as
"TorchScript" or "ONNX Runtime", with the artifact as it was exported; "TorchScript optimised" is
that artifact frozen, fused and prepacked at load, alike in both languages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import Artifact
from isthmus.capture.load_model import no_model
from isthmus.errors import InvalidInput
from isthmus.runtime.engines import (
    EAGER,
    ENGINES_IN_PYTHON,
    EngineInPython,
    RowKind,
    engine_title,
    engines_of,
    formats_of_engine,
)
from isthmus.runtime.machine import cpu_governor, devices_present, load_average, machine_facts
from isthmus.runtime.run_options import RunOptions, check_rounds
from isthmus.runtime.workers import available_cores
from isthmus.timing.bench_report import BenchReport, Comparison, compare_rows
from isthmus.timing.bench_row import BenchRow, Language
from isthmus.timing.turns import DISCARDED, TimedRow, measure

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.runtime.engine_spec import EngineSpec

__all__ = ["FORMS", "BenchReport", "BenchRow", "Comparison", "bench", "bench_bundle"]

Pair = tuple[str, RowKind]
"""An engine and what it runs: a row in Python and a row in C++."""

_PAIRS: dict[str, Pair] = {
    engine_title(engine, kind): (engine, kind)
    for engine, kind in (
        (EAGER, RowKind.EAGER),
        *(
            (runtime.engine, kind)
            for runtime in ENGINES_IN_PYTHON
            for kind in (RowKind.EXPORTED, RowKind.OPTIMISED)
            if kind is RowKind.EXPORTED or runtime.optimizes
        ),
    )
}
FORMS: tuple[str, ...] = tuple(_PAIRS)
"""The titles of all rows; a bundle has those of its artifacts."""
LANGUAGES: tuple[Language, ...] = ("Python", "C++")
TIMEOUT = 300.0
"""The seconds that a worker of bench and tune may keep silent by default."""
_FORMATS = {
    "torchscript": "TorchScript",
    "exported": "exported program",
    "onnx": "ONNX",
    "aoti": "AOTInductor",
}


def bench(
    path: str | Path | Bundle,
    model: str | None = None,
    forms: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    *,
    languages: Sequence[Language] = LANGUAGES,
    artifact: str | None = None,
    golden: str | None = None,
    threads: int | None = None,
    rounds: int = 30,
    turn_seconds: float = 0.12,
    confidence: float = 0.99,
    margin: float = 0.03,
    seed: int = 0,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    timeout: float = TIMEOUT,
    native_arguments: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Times a bundle's model in Python and in C++, each row in a process of its own.

    The processes live side by side, but only one works at a time: in each round every process takes
    a turn, in random order, so that a machine that slows down slows all of them. All calls have the
    inputs of one golden; GPU work is waited for within the measured time.

    Args:
        path: The bundle.
        model: The source of the eager module: "package.module:factory", or a Hugging Face id or
            folder. None: no eager row; what the bundle itself names is never imported.
        forms: Titles of `FORMS`; None: all that the bundle has.
        devices: "cpu", "cuda" or "cuda:N"; None: both kinds, with the reason where one is absent.
        languages: "Python", "C++".
        artifact: The name of one artifact; None: the first of each format that fits the device.
        golden: The name of the golden that gives the inputs; None: the manifest's first for
            warm-up.
        threads: Intra-operator threads on both sides; None: the processors usable.
        rounds: Turns of each row; at least 2.
        turn_seconds: About how long a turn takes; at least 5 calls are made, 2 if they are slow.
        confidence: The confidence of the intervals.
        margin: The relative difference up to which two rows count as equally fast: processes of one
            program differ by as much.
        seed: The seed of the order of turns.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        timeout: The seconds that a worker may keep silent.
        native_arguments: Further arguments of `isthmus-run bench`.
        progress: Called with a line at each stage.

    Raises:
        BundleError: `path` is no good bundle.
        InvalidInput: Unknown form, language, device, artifact or golden, or too few rounds.
    """
    options = RunOptions(
        devices=devices,
        artifact=artifact,
        threads=threads,
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return bench_bundle(
        path,
        options,
        model,
        forms=forms,
        languages=languages,
        golden=golden,
        rounds=rounds,
        turn_seconds=turn_seconds,
        confidence=confidence,
        margin=margin,
        seed=seed,
        native_arguments=native_arguments,
    )


def bench_bundle(
    path: str | Path | Bundle,
    options: RunOptions,
    model: str | None = None,
    *,
    forms: Sequence[str] | None = None,
    languages: Sequence[Language] = LANGUAGES,
    golden: str | None = None,
    rounds: int = 30,
    turn_seconds: float = 0.12,
    confidence: float = 0.99,
    margin: float = 0.03,
    seed: int = 0,
    native_arguments: Sequence[str] = (),
) -> BenchReport:
    """Times a bundle under options that several steps share; see `bench`.

    Without `forms`, the rows are those of `options.engines`; a Python runtime's name stands for its
    pair.
    """
    from isthmus.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    _check_names("form", forms or (), FORMS)
    _check_names("language", languages, LANGUAGES)
    check_rounds(rounds)
    pairs = _pairs_of(bundle, options) if forms is None else [_PAIRS[title] for title in forms]
    present = devices_present()
    devices = tuple(options.devices) if options.devices is not None else tuple(present)
    load_before = load_average()
    plan = _Plan(bundle, options, _pick_golden(bundle, golden), model or "")
    timed = [
        plan.timed_row(BenchRow(engine, kind, language, device), present)
        for device in devices
        for engine, kind in pairs
        for language in languages
    ]
    rows = measure(
        timed,
        options,
        rounds=rounds,
        turn_seconds=turn_seconds,
        seed=seed,
        native_arguments=native_arguments,
    )
    comparisons = tuple(
        compare_rows(python, cpp, confidence=confidence, margin=margin)
        for python in rows
        for cpp in rows
        if (python.language, cpp.language) == ("Python", "C++")
        and (python.title, python.device) == (cpp.title, cpp.device)
    )
    threads = options.thread_count
    return BenchReport(
        bundle=bundle.manifest.name,
        rows=tuple(rows),
        comparisons=comparisons,
        context={
            "bundle": str(bundle.path),
            **machine_facts(),
            "clock governor": cpu_governor(),
            "load average before": f"{load_before:.2f}",
            "threads": f"{threads} in each process, in Python and in C++",
            "flags": "inference mode, no gradients; the same environment for every process",
            "inputs": f"golden {plan.golden}",
            "method": f"{rounds} rounds in random order (seed {seed}); warm-up and the first"
            f" {DISCARDED} calls of each turn are not counted",
            "difference": f"told when the whole {confidence:.0%} interval is beyond {margin:.0%}",
        },
        notes=_notes(load_before, threads),
    )


@dataclass(frozen=True)
class _Plan:
    """The inputs that all rows of one benchmark share."""

    bundle: Bundle
    options: RunOptions
    golden: str
    model: str

    def timed_row(self, row: BenchRow, present: dict[str, str]) -> TimedRow:
        """Returns the row with the engine to load, or with the reason why there is none."""
        artifact = self._artifact_for(row)
        reason = self._why_unavailable(row, artifact, present)
        return TimedRow(
            replace(row, unavailable=reason),
            spec=None if reason else self._spec(row, artifact),
            golden=self.golden,
            name=row.label,
            group=f"{row.title} {row.device}",
        )

    def _artifact_for(self, row: BenchRow) -> Artifact | None:
        """Returns the artifact that the row runs; one that was made for its device is preferred."""
        if row.kind is RowKind.EAGER:
            return None
        kind = row.device.partition(":")[0]
        candidates = self.bundle.manifest.artifacts
        if self.options.artifact is not None:
            candidates = (self.bundle.artifact(self.options.artifact),)
        format = _in_python(row.engine).format
        fitting = [
            artifact
            for artifact in candidates
            if artifact.format == format and kind in artifact.devices
        ]
        return min(fitting, key=lambda artifact: artifact.device != kind, default=None)

    def _why_unavailable(
        self, row: BenchRow, artifact: Artifact | None, present: dict[str, str]
    ) -> str:
        eager = row.kind is RowKind.EAGER
        if eager and row.language == "C++":
            return "an eager Python module has no form in C++; its TorchScript has"
        kind = row.device.partition(":")[0]
        if present[kind]:
            return present[kind]
        if eager:
            return "" if self.model else no_model(self.bundle.manifest.source)
        runtime = _in_python(row.engine)
        if artifact is None:
            name = _FORMATS.get(runtime.format, runtime.format)
            return f"the bundle has no {name} artifact for {kind}"
        if self.options.refusal(artifact):
            return self.options.refusal(artifact)
        if row.language == "Python":
            if kind not in runtime.devices:
                devices = ", ".join(runtime.devices)
                return f"isthmus calls {runtime.name} in Python on {devices} only"
            return runtime.absent
        if runtime.engine not in engines_of(runtime.format):
            return f"the engine {runtime.engine} is not installed"
        return ""

    def _spec(self, row: BenchRow, artifact: Artifact | None) -> EngineSpec:
        if artifact is None:
            return self.options.spec(self.bundle, EAGER, row.device, model=self.model)
        runtime = _in_python(row.engine)
        # Where both languages run the graph as it is, that is compared; else the runtime's default.
        optimize = "none" if runtime.optimizes else "auto"
        if row.kind is RowKind.OPTIMISED:
            # Prepacking is for the CPU.
            optimize = "inference" if row.device == "cpu" else "freeze"
        return self.options.spec(
            self.bundle,
            runtime.name,
            row.device,
            artifact=artifact.name,
            engine=row.engine,
            optimize=optimize,
        )


def _in_python(engine: str) -> EngineInPython:
    return next(runtime for runtime in ENGINES_IN_PYTHON if runtime.engine == engine)


def _pairs_of(bundle: Bundle, options: RunOptions) -> list[Pair]:
    """Returns the pairs of the bundle's artifacts, of the engines that are wanted."""
    formats = {artifact.format for artifact in bundle.manifest.artifacts}
    wanted = {
        runtime.engine
        for runtime in ENGINES_IN_PYTHON
        if (options.wants(runtime.engine) or options.wants(runtime.name))
        and formats & set(formats_of_engine(runtime.engine))
    }
    if options.wants(EAGER):
        wanted.add(EAGER)
    return [(engine, kind) for engine, kind in _PAIRS.values() if engine in wanted]


def _check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InvalidInput(f"{what} {name!r} is unknown, expected {' or '.join(known)}")


def _pick_golden(bundle: Bundle, name: str | None) -> str:
    names = [entry.name for entry in bundle.manifest.goldens]
    if name is None:
        if not names:
            raise InvalidInput("the bundle has no goldens to time with; export it again")
        return next((warmup for warmup in bundle.manifest.warmup if warmup in names), names[0])
    if name not in names:
        raise InvalidInput(f"golden {name!r} is not in the bundle, which has {', '.join(names)}")
    return name


def _notes(load: float, threads: int) -> tuple[str, ...]:
    cores = available_cores()
    notes = []
    if load > 0.5 * cores:
        notes.append(
            f"the machine was busy before (load {load:.1f} on {cores} processors): numbers are high"
        )
    if threads > cores:
        notes.append(f"{threads} threads share {cores} processors")
    return tuple(notes)
