"""One process a row, taking turns.

Forms: "Torch" is the eager module; each engine has one, such as "TorchScript" or "ONNX Runtime",
the artifact as it was exported; "TorchScript optimised" is that artifact frozen, fused and
prepacked at load, in the same way on both sides.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.errors import InvalidInput
from isthmus.runtime.engines import ENGINES_IN_PYTHON, formats_of_engine
from isthmus.runtime.machine import cpu_governor, devices_present, load_average, machine_facts
from isthmus.runtime.workers import available_cores
from isthmus.timing.bench_report import BenchReport, BenchRow, Comparison, Language, compare_rows
from isthmus.timing.turns import (
    DISCARDED,
    EAGER,
    OPTIMISED,
    Plan,
    engine_of,
    finish,
    take_turns,
    warm_up,
    workers,
)

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["FORMS", "BenchReport", "BenchRow", "Comparison", "bench"]

FORMS: tuple[str, ...] = (
    EAGER,
    *(
        form
        for runtime in ENGINES_IN_PYTHON
        for form in (runtime.title, *([runtime.title + OPTIMISED] if runtime.optimizes else []))
    ),
)
"""Every form that there is; a bundle has those of its artifacts."""
LANGUAGES: tuple[Language, ...] = ("Python", "C++")


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
    timeout: float = 300.0,
    native_arguments: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Times a bundle's model in Python and in C++, each row in a process of its own.

    The processes live side by side, but only one works at a time: in each round every one takes a
    turn, in random order, so that a machine that slows down slows all of them. Calls are one
    golden's inputs, again and again; GPU work is waited for within the clock.

    Args:
        path: The bundle.
        model: Where the eager module comes from: "package.module:factory", or a Hugging Face id or
            folder. None: no eager row; what the bundle itself names is never imported.
        forms: Of `FORMS`; None: all that the bundle has.
        devices: "cpu", "cuda" or "cuda:N"; None: both kinds, with the reason where one is absent.
        languages: "Python", "C++".
        artifact: Name of one artifact; None: the first of each format that fits the device.
        golden: Name of the golden that gives the inputs; None: the manifest's first for warm-up.
        threads: Intra-operator threads on both sides; None: the processors usable.
        rounds: Turns of each row; at least 2.
        turn_seconds: About how long a turn takes; at least 5 calls are made.
        confidence: Of the intervals.
        margin: A difference within this share is none: processes of one program differ by as much.
        seed: Of the order of turns.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        timeout: Seconds that a worker may say nothing.
        native_arguments: Further arguments of `isthmus-run bench`.
        progress: Called with a line at each stage.

    Raises:
        BundleError: `path` is no good bundle.
        InvalidInput: Unknown form, language, device, artifact or golden, or too few rounds.
    """
    from isthmus.bundle.bundle import Bundle, open_bundle

    bundle = path if isinstance(path, Bundle) else open_bundle(Path(path))
    chosen = tuple(forms) if forms is not None else _forms_of(bundle)
    _check_options(chosen, languages, devices, rounds)
    say = progress or (lambda line: None)
    present = devices_present()
    places = tuple(devices) if devices is not None else tuple(present)
    load_before = load_average()
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        plan = Plan(
            bundle=bundle,
            artifact=bundle.artifact(artifact) if artifact is not None else None,
            golden=_pick_golden(bundle, golden),
            threads=threads or available_cores(),
            trust=trust,
            op_libraries=tuple(str(library) for library in op_libraries),
            model=model or "",
            timeout=timeout,
            native_arguments=tuple(native_arguments),
            folder=Path(folder),
        )
        rows = [
            BenchRow(form, language, device)
            for device in places
            for form in chosen
            for language in languages
        ]
        with workers(plan, rows, present, say) as runners:
            warm_up(runners, turn_seconds, timeout, say)
            take_turns(runners, rounds, random.Random(seed), timeout, say)
            rows = [finish(runner, timeout) for runner in runners]
    comparisons = tuple(
        compare_rows(python, cpp, confidence=confidence, margin=margin)
        for python in rows
        for cpp in rows
        if (python.language, cpp.language) == ("Python", "C++")
        and (python.form, python.device) == (cpp.form, cpp.device)
    )
    return BenchReport(
        bundle=bundle.manifest.name,
        rows=tuple(rows),
        comparisons=comparisons,
        context={
            "bundle": str(bundle.path),
            **machine_facts(),
            "clock governor": cpu_governor(),
            "load average before": f"{load_before:.2f}",
            "threads": f"{plan.threads} in each process, in Python and in C++",
            "flags": "inference mode, no gradients; the same environment for every process",
            "inputs": f"golden {plan.golden}",
            "method": f"{rounds} rounds in random order (seed {seed}); warm-up and the first"
            f" {DISCARDED} calls of each turn are not counted",
            "difference": f"told when the whole {confidence:.0%} interval is beyond {margin:.0%}",
        },
        notes=_notes(load_before, plan.threads),
    )


def _forms_of(bundle: Bundle) -> tuple[str, ...]:
    formats = {artifact.format for artifact in bundle.manifest.artifacts}
    return tuple(
        form for form in FORMS if form == EAGER or formats & set(formats_of_engine(engine_of(form)))
    )


def _check_options(
    forms: Sequence[str], languages: Sequence[str], devices: Sequence[str] | None, rounds: int
) -> None:
    for given, known, what in (
        (forms, FORMS, "form"),
        (languages, LANGUAGES, "language"),
        ([device.partition(":")[0] for device in devices or ()], ("cpu", "cuda"), "device"),
    ):
        for one in given:
            if one not in known:
                raise InvalidInput(f"{what} {one!r} is unknown, expected {' or '.join(known)}")
    if rounds < 2:
        raise InvalidInput(f"rounds is {rounds}, expected at least 2 for an interval")


def _pick_golden(bundle: Bundle, name: str | None) -> str:
    names = [entry.name for entry in bundle.manifest.goldens]
    if name is None:
        preferred = [one for one in bundle.manifest.warmup if one in names]
        if not names:
            raise InvalidInput("the bundle has no goldens to time with; export it again")
        return (preferred or names)[0]
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
