"""Proves a bundle: all goldens by every engine, with a row and a verdict for each.

Every engine gets a process of its own. The verdict of a C++ row comes from `isthmus-run verify`, a
process without Python; its raw outputs, for the comparison with `torch.jit` bit by bit, come from
the bindings of the same library.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from isthmus.bundle.manifest import Artifact
from isthmus.errors import InvalidInput
from isthmus.proof.jobs import (
    Job,
    Reference,
    Run,
    against_jit,
    judge,
    prove_without_python,
    run_here,
    run_workers,
)
from isthmus.proof.verify_report import ParityError, VerifyReport, VerifyRow
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.engines import (
    EAGER,
    EngineInPython,
    engines_in_python,
    engines_of,
    names_for,
)
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.run_options import RunOptions

if TYPE_CHECKING:
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.proof.explain import Explanation

__all__ = ["ParityError", "VerifyReport", "VerifyRow", "verify", "verify_bundle"]


def verify(
    path: str | Path | Bundle,
    model: torch.nn.Module | str | None = None,
    engines: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    *,
    artifact: str | None = None,
    threads: int | None = None,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    timeout: float = 600.0,
    rank: bool = False,
    explain: bool | None = None,
    repro: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Proves a bundle on this machine: each engine, on each device, on all goldens.

    Args:
        path: The bundle.
        model: The eager module, which then is the reference of all other rows and is itself
            compared with the goldens. A module, "package.module:factory", or a Hugging Face id or
            folder. Without it the goldens, which eager gave at export, are the reference.
        engines: Rows to run: "eager", a Python runtime such as "torch.jit" or "onnxruntime", or an
            engine of the C++ library; a name that is both gives both rows. None: all that the
            bundle's artifacts have.
        devices: "cpu", "cuda" or "cuda:N". None: "cpu" and "cuda", the latter told as absent where
            there is none. A device that is asked for and absent fails.
        artifact: The only artifact to run; None: all.
        threads: Intra-operator threads of every engine; None: the processors usable.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        timeout: Seconds that each process may take.
        rank: Also print all rows in the order of their distance to eager in float64.
        explain: Name the first submodule that diverges in each engine; it needs the model. None:
            only when an engine failed and the model is at hand, and only in artifacts that show
            what is inside (not AOTInductor packages, for which a copy has to be compiled).
        repro: A folder for the explanation's minimal repro, one folder in it for each engine.
        progress: Called with a line before each row.

    Returns:
        The report: truthy when the bundle is proven.

    Raises:
        BundleError: `path` is no good bundle.
        InvalidInput: Unknown engine, artifact or device.
    """
    options = RunOptions(
        engines=engines,
        devices=devices,
        artifact=artifact,
        threads=threads,
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return verify_bundle(path, options, model, rank=rank, explain=explain, repro=repro)


def verify_bundle(
    path: str | Path | Bundle,
    options: RunOptions,
    model: torch.nn.Module | str | None = None,
    *,
    rank: bool = False,
    explain: bool | None = None,
    repro: str | Path | None = None,
) -> VerifyReport:
    """Proves a bundle under options that several steps share; see `verify`."""
    from isthmus.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    artifacts = bundle.manifest.artifacts
    if options.artifact is not None:
        artifacts = (bundle.artifact(options.artifact),)
    _check_engines(options.engines, artifacts, has_model=model is not None)
    present = devices_present()
    devices = tuple(options.devices) if options.devices is not None else tuple(present)
    with tempfile.TemporaryDirectory(prefix="isthmus-verify-") as folder:
        job = Job(bundle, bundle.goldens(), options, Path(folder))
        rows: list[VerifyRow] = []
        reference: Reference | None = None
        if model is not None:
            rows, reference = _verify_model(job, model, artifacts, devices, present)
        for candidate in artifacts:
            for device in devices:
                absent = _why_absent(candidate, device, present)
                rows += _verify_artifact(job, candidate, device, reference, absent)
        explanations = _explanations(job, model, rows, explain, repro)
    producer = bundle.manifest.producer
    return VerifyReport(
        bundle=bundle.manifest.name,
        rows=tuple(rows),
        ranked=rank,
        explanations=explanations,
        context={
            "bundle": str(bundle.path),
            "made with": ", ".join(f"{name} {value}" for name, value in producer.items()),
            **machine_facts(),
            "threads": str(options.thread_count),
            "goldens": str(len(job.goldens)),
            "reference": (
                "the model given" if reference is not None else _origin_of_goldens(bundle)
            ),
        },
    )


def _origin_of_goldens(bundle: Bundle) -> str:
    by = bundle.manifest.source.get("reference")
    if by is None:
        return "the bundle's goldens"
    return f"the bundle's goldens: there is no eager module, and {by} ran the adopted file itself"


def _explanations(
    job: Job,
    model: torch.nn.Module | str | None,
    rows: Sequence[VerifyRow],
    wanted: bool | None,
    repro: str | Path | None,
) -> tuple[Explanation, ...]:
    """Explains the engines that failed, or all of them when asked for it."""
    from isthmus.proof.explain import explain_engine

    if model is None:
        if wanted:
            raise InvalidInput("explain needs the model that is right; pass model= (--model)")
        return ()
    if wanted is False:
        return ()
    native = [row for row in rows if row.language == "C++" and row.device == "cpu"]
    failed = [row for row in native if row.status == "failed"]
    chosen = failed if failed else native if wanted else []
    explanations = []
    for row in chosen:
        if row.status not in ("passed", "failed") or (row.engine == "aoti" and not wanted):
            continue
        job.options.say(f"looking for the first submodule that diverges in {row.engine}")
        explanations.append(
            explain_engine(
                job.bundle,
                model,
                replace(job.options, artifact=row.artifact),
                engine=row.engine,
                golden=_smallest_failing(job, row),
                repro=None if repro is None else Path(repro, row.engine),
            )
        )
    return tuple(explanations)


def _smallest_failing(job: Job, row: VerifyRow) -> str:
    names = {result.golden for result in row.results if not result}
    failing = [golden for golden in job.goldens if golden.name in names]
    return min(failing, key=lambda golden: golden.nbytes).name if failing else ""


def _check_engines(
    engines: Sequence[str] | None, artifacts: Sequence[Artifact], *, has_model: bool
) -> None:
    known = {*names_for(artifacts), *([EAGER] if has_model else [])}
    for name in engines or ():
        if name == EAGER and not has_model:
            raise InvalidInput("engine 'eager' needs the model; pass model=")
        if name not in known:
            raise InvalidInput(
                f"engine {name!r} has nothing to run in this bundle, expected one of"
                f" {', '.join(sorted(known))}"
            )


def _why_absent(artifact: Artifact, device: str, present: Mapping[str, str]) -> str:
    kind = device.partition(":")[0]
    if present[kind]:
        return present[kind]
    if kind not in artifact.devices:
        return f"the artifact is not made for {kind}, only for {', '.join(artifact.devices)}"
    return ""


def _verify_model(
    job: Job,
    model: torch.nn.Module | str,
    artifacts: Sequence[Artifact],
    devices: Sequence[str],
    present: Mapping[str, str],
) -> tuple[list[VerifyRow], Reference | None]:
    """Compares eager with the goldens on each device; the first that runs is the reference."""
    rows: list[VerifyRow] = []
    reference: Reference | None = None
    judged_by = next(
        (artifact for artifact in artifacts if artifact.precision == "fp32"), artifacts[0]
    )
    shown = job.options.wants(EAGER)
    asked = job.options.devices is not None
    for device in devices:
        absent = present[device.partition(":")[0]]
        if absent:
            if shown:
                rows.append(_absent_row(EAGER, "Python", device, absent, asked=asked))
            continue
        job.options.say(f"eager in Python on {device}")
        start = time.perf_counter()
        if isinstance(model, str):
            run = run_workers(job, [(job.spec(EAGER, device, model=model), True)])[0]
        else:
            run = run_here(job, model, device)
        row = VerifyRow(EAGER, "Python", device, "passed", runtime=run.runtime)
        row = judge(job, row, run, judged_by.tolerances, None)
        if reference is None and not run.error and not run.errors:
            reference = Reference(run.outputs, is_the_goldens=bool(row))
        if shown:
            rows.append(replace(row, seconds=time.perf_counter() - start))
    return rows, reference


def _verify_artifact(
    job: Job, artifact: Artifact, device: str, reference: Reference | None, absent: str
) -> list[VerifyRow]:
    """Runs the C++ engines first: they scan the artifact, and Python must not load what is refused.

    Args:
        job: The bundle and the options.
        artifact: The artifact to run.
        device: The device to run on.
        reference: The outputs of the model given, if any.
        absent: The reason why the artifact cannot run on the device; empty when it can.
    """
    options = job.options
    installed = engines_of(artifact.format)
    names = [name for name in installed if options.wants(name)]
    pythons = [
        engine for engine in engines_in_python(artifact.format) if options.wants(engine.name)
    ]
    asked = options.devices is not None
    if not absent and options.refusal(artifact):
        absent = options.refusal(artifact)
        asked = options.engines is not None
    if absent:
        rows = [
            _absent_row(python.name, "Python", device, absent, asked=asked) for python in pythons
        ]
        rows += [_absent_row(name, "C++", device, absent, asked=asked) for name in names]
        return [replace(row, artifact=artifact.name) for row in rows]

    bit_exact = {python.engine for python in pythons if python.same_bits}
    native: dict[str, _NativeRun] = {}
    # Without a C++ engine to run, they still scan the artifact for Python.
    for name in names or (installed if pythons else ()):
        options.say(f"{name} in C++ on {device}")
        native[name] = _run_native(job, artifact, name, device, reference, name in bit_exact)
    refused = next((run.refused for run in native.values() if run.refused), "")
    rows = []
    python_runs: dict[str, Run | None] = {}
    for python in pythons:
        options.say(f"{python.name} in Python on {device}")
        row, python_runs[python.engine] = _python_row(
            job, artifact, python, device, reference, refused
        )
        rows.append(row)
    for name in names:
        counterpart = python_runs.get(name) if name in bit_exact else None
        rows.append(against_jit(native[name].row, native[name].plain, counterpart, device))
    return rows


def _python_row(
    job: Job,
    artifact: Artifact,
    python: EngineInPython,
    device: str,
    reference: Reference | None,
    refused: str,
) -> tuple[VerifyRow, Run | None]:
    row = VerifyRow(python.name, "Python", device, "passed", artifact=artifact.name)
    if refused:
        reason = f"not loaded, because the C++ library refused the artifact: {refused}"
        return replace(row, status="error", reason=reason), None
    absent = python.absent
    if not absent and device.partition(":")[0] not in python.devices:
        absent = f"isthmus calls {python.name} in Python on {', '.join(python.devices)} only"
    if absent:
        return replace(row, status="absent", reason=absent), None
    start = time.perf_counter()
    spec = job.spec(python.name, device, artifact=artifact.name)
    run = run_workers(job, [(spec, True)])[0]
    row = judge(job, replace(row, runtime=run.runtime), run, artifact.tolerances, reference)
    moved = any(hazard.kind == "device_literal" for hazard in artifact.hazards)
    if row.status == "error" and moved and device.partition(":")[0] != artifact.device:
        # The C++ engine moves such literals at load; torch.jit in Python has no way to.
        reason = f"the graph holds {artifact.device} literals, which {python.name} cannot move"
        row = replace(row, status="absent", reason=reason)
    return replace(row, seconds=time.perf_counter() - start), run


@dataclass(frozen=True)
class _NativeRun:
    """The result of a C++ engine on one artifact."""

    row: VerifyRow
    plain: Run | None
    """The outputs of the graph as it is, for the comparison with `torch.jit`; None: not run."""
    refused: str
    """The reason why the bundle's files were refused; empty when they were not."""


def _run_native(
    job: Job,
    artifact: Artifact,
    engine: str,
    device: str,
    reference: Reference | None,
    bit_exact: bool,
) -> _NativeRun:
    row = VerifyRow(engine, "C++", device, "passed", artifact=artifact.name)
    start = time.perf_counter()
    row, refused = prove_without_python(job, row)
    specs: list[tuple[EngineSpec, bool]] = []
    spec = job.spec("isthmus", device, artifact=artifact.name, engine=engine)
    if row.status != "error":
        if bit_exact:
            specs.append((replace(spec, optimize="none", warmup=False), False))
        if reference is not None:
            specs.append((replace(spec, optimize="auto"), False))
    runs = run_workers(job, specs) if specs else []
    if reference is not None and runs:
        proven = row
        row = judge(job, row, runs[-1], artifact.tolerances, reference)
        if not proven:
            row = replace(row, status=proven.status, reason=f"on the goldens: {proven.reason}")
    row = replace(row, seconds=time.perf_counter() - start)
    return _NativeRun(row, runs[0] if bit_exact and runs else None, refused)


def _absent_row(
    engine: str, language: Literal["Python", "C++"], device: str, reason: str, *, asked: bool
) -> VerifyRow:
    """Returns a row that cannot run: an error when it was asked for, else told and not judged."""
    return VerifyRow(engine, language, device, "error" if asked else "absent", reason)
