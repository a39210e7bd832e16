"""All goldens by every way of running a bundle: a row with a verdict for each.

Every runtime gets a process of its own. The C++ row's verdict comes from `isthmus-run verify`, a
process without Python; its raw outputs, for the comparison with `torch.jit` bit by bit, come from
the bindings of the same library.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from isthmus.runtime.engines import EngineInPython, engines_in_python, engines_of, names_for
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.workers import available_cores

if TYPE_CHECKING:
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.proof.explain import Explanation

__all__ = ["ParityError", "VerifyReport", "VerifyRow", "verify"]

EAGER = "eager"


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
    """Proves a bundle on this machine: each way of running it, on each device, on all goldens.

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
        artifact: Only this artifact; None: all.
        threads: Intra-operator threads of every runtime; None: the processors usable.
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
    from isthmus.bundle.bundle import Bundle, open_bundle

    bundle = path if isinstance(path, Bundle) else open_bundle(Path(path))
    artifacts = bundle.manifest.artifacts
    if artifact is not None:
        artifacts = (bundle.artifact(artifact),)
    _check_engines(engines, artifacts, has_model=model is not None)
    present = devices_present()
    places = _devices(devices, present)
    with tempfile.TemporaryDirectory(prefix="isthmus-verify-") as folder:
        job = Job(
            bundle=bundle,
            goldens=bundle.goldens(),
            threads=threads or available_cores(),
            trust=trust,
            op_libraries=tuple(str(library) for library in op_libraries),
            timeout=timeout,
            folder=Path(folder),
            say=progress or (lambda line: None),
        )
        rows: list[VerifyRow] = []
        reference: Reference | None = None
        if model is not None:
            rows_of_model, reference = _verify_model(
                job, model, engines, artifacts, places, present, asked=devices is not None
            )
            rows += rows_of_model
        for one in artifacts:
            for device in places:
                absent = _why_absent(one, device, present)
                rows += _verify_artifact(
                    job, one, device, engines, reference, absent, asked=devices is not None
                )
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
            "threads": str(job.threads),
            "goldens": str(len(job.goldens)),
            "reference": "the model given" if reference is not None else "the bundle's goldens",
        },
    )


def _explanations(
    job: Job,
    model: torch.nn.Module | str | None,
    rows: Sequence[VerifyRow],
    wanted: bool | None,
    repro: str | Path | None,
) -> tuple[Explanation, ...]:
    """Of the engines that failed, or of all when asked for it."""
    from isthmus.proof.explain import explain

    if model is None:
        if wanted:
            raise InvalidInput("explain needs the model that is right; pass model= (--model)")
        return ()
    if wanted is False:
        return ()
    native = [row for row in rows if row.language == "C++" and row.device == "cpu"]
    failed = [row for row in native if row.status == "failed"]
    chosen = failed if failed else native if wanted else []
    found = []
    for row in chosen:
        if row.status not in ("passed", "failed") or (row.runner == "aoti" and not wanted):
            continue
        job.say(f"looking for the first submodule that diverges in {row.runner}")
        found.append(
            explain(
                job.bundle,
                model,
                engine=row.runner,
                artifact=row.artifact,
                golden=_smallest_failing(job, row),
                threads=job.threads,
                trust=job.trust,
                op_libraries=job.op_libraries,
                timeout=job.timeout,
                repro=None if repro is None else Path(repro, row.runner),
                progress=job.say,
            )
        )
    return tuple(found)


def _smallest_failing(job: Job, row: VerifyRow) -> str:
    failing = {result.golden for result in row.results if not result}
    chosen = [golden for golden in job.goldens if golden.name in failing]
    return min(chosen, key=lambda one: one.nbytes).name if chosen else ""


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


def _devices(devices: Sequence[str] | None, present: Mapping[str, str]) -> tuple[str, ...]:
    for device in devices or ():
        if device.partition(":")[0] not in present:
            raise InvalidInput(f"device {device!r} is unknown, expected 'cpu', 'cuda' or 'cuda:N'")
    return tuple(devices) if devices is not None else tuple(present)


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
    engines: Sequence[str] | None,
    artifacts: Sequence[Artifact],
    places: Sequence[str],
    present: Mapping[str, str],
    *,
    asked: bool,
) -> tuple[list[VerifyRow], Reference | None]:
    """Eager against the goldens on each device, and its answers on the first as the reference."""
    rows: list[VerifyRow] = []
    reference: Reference | None = None
    judged_by = next(
        (artifact for artifact in artifacts if artifact.precision == "fp32"), artifacts[0]
    )
    for device in places:
        kind = device.partition(":")[0]
        shown = engines is None or EAGER in engines
        if present[kind]:
            if shown:
                rows.append(_absent_row(EAGER, "Python", device, present[kind], asked=asked))
            continue
        job.say(f"eager in Python on {device}")
        start = time.perf_counter()
        if isinstance(model, str):
            run = run_workers(job, [(job.spec("eager", device, model=model), True)])[0]
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
    job: Job,
    artifact: Artifact,
    device: str,
    engines: Sequence[str] | None,
    reference: Reference | None,
    absent: str,
    *,
    asked: bool,
) -> list[VerifyRow]:
    """Native rows first: they scan the artifact, and what they refuse Python must not load."""
    names = engines_of(artifact.format)
    wanted = [name for name in names if engines is None or name in engines]
    pythons = [
        runtime
        for runtime in engines_in_python(artifact.format)
        if engines is None or runtime.name in engines
    ]
    if artifact.trust == "native" and job.trust != "native" and not absent:
        absent = 'it is native code: allow it with trust="native" (--allow-native)'
        asked = engines is not None
    if absent:
        rows = [
            _absent_row(python.name, "Python", device, absent, asked=asked) for python in pythons
        ]
        rows += [_absent_row(name, "C++", device, absent, asked=asked) for name in wanted]
        return [replace(row, artifact=artifact.name) for row in rows]

    native: list[tuple[VerifyRow, Run | None]] = []
    refused = ""
    twins = {python.engine: python for python in pythons if python.same_bits}
    for name in wanted or (list(names) if pythons else []):
        job.say(f"{name} in C++ on {device}")
        row, run, refusal = _native_row(job, artifact, name, device, reference, name in twins)
        refused = refused or refusal
        if name in wanted:
            native.append((row, run))
    rows = []
    plain: dict[str, Run | None] = {}
    for one in pythons:
        job.say(f"{one.name} in Python on {device}")
        row, run = _python_row(job, artifact, one, device, reference, refused)
        plain[one.engine] = run
        rows.append(row)
    for row, run in native:
        twin = plain.get(row.runner) if row.runner in twins else None
        rows.append(against_jit(row, run, twin, device))
    return rows


def _python_row(
    job: Job,
    artifact: Artifact,
    runtime: EngineInPython,
    device: str,
    reference: Reference | None,
    refused: str,
) -> tuple[VerifyRow, Run | None]:
    row = VerifyRow(runtime.name, "Python", device, "passed", artifact=artifact.name)
    if refused:
        reason = f"not loaded, because the C++ library refused the artifact: {refused}"
        return replace(row, status="error", reason=reason), None
    absent = runtime.absent
    if not absent and device.partition(":")[0] not in runtime.devices:
        absent = f"isthmus calls {runtime.name} in Python on {', '.join(runtime.devices)} only"
    if absent:
        return replace(row, status="absent", reason=absent), None
    start = time.perf_counter()
    spec = job.spec(runtime.name, device, artifact=artifact.name)
    run = run_workers(job, [(spec, True)])[0]
    row = judge(job, replace(row, runtime=run.runtime), run, artifact.tolerances, reference)
    moved = any(hazard.kind == "device_literal" for hazard in artifact.hazards)
    if row.status == "error" and moved and device.partition(":")[0] != artifact.device:
        # The C++ engine moves such literals at load; torch.jit in Python has no way to.
        reason = f"the graph holds {artifact.device} literals, which {runtime.name} cannot move"
        row = replace(row, status="absent", reason=reason)
    return replace(row, seconds=time.perf_counter() - start), run


def _native_row(
    job: Job,
    artifact: Artifact,
    engine: str,
    device: str,
    reference: Reference | None,
    with_twin: bool,
) -> tuple[VerifyRow, Run | None, str]:
    """The row, the outputs of the graph as it is for its Python twin, and why it was refused."""
    row = VerifyRow(engine, "C++", device, "passed", artifact=artifact.name)
    start = time.perf_counter()
    row, refused = prove_without_python(job, row)
    runs: list[tuple[EngineSpec, bool]] = []
    spec = job.spec("isthmus", device, artifact=artifact.name, engine=engine)
    if row.status != "error":
        if with_twin:
            runs.append((replace(spec, optimize="none", warmup=False), False))
        if reference is not None:
            runs.append((replace(spec, optimize="auto"), False))
    done = run_workers(job, runs) if runs else []
    plain = done[0] if with_twin and done else None
    if reference is not None and done:
        proven = row
        row = judge(job, row, done[-1], artifact.tolerances, reference)
        if not proven:
            row = replace(row, status=proven.status, reason=f"on the goldens: {proven.reason}")
    return replace(row, seconds=time.perf_counter() - start), plain, refused


def _absent_row(runner: str, language: Any, device: str, reason: str, *, asked: bool) -> VerifyRow:
    """Nobody asked for it: told, not judged. Asked for: a device is a contract."""
    return VerifyRow(runner, language, device, "error" if asked else "absent", reason)
