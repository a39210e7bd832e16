"""The worker processes of verify, and the verdicts on their outputs."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import NoiseFloor, Tolerance
from isthmus.errors import ExecutionError
from isthmus.goldens.compare import OutputParity, compare, difference
from isthmus.proof.verify_report import Status, VerifyRow
from isthmus.proof.verify_worker import Outputs, golden_file, run_all
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.python_engines import EagerEngine
from isthmus.runtime.run_options import RunOptions
from isthmus.runtime.workers import ask_worker, explain_exit, run_command

if TYPE_CHECKING:
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden


@dataclass(frozen=True)
class Job:
    """The inputs that all rows of one call of `verify` share."""

    bundle: Bundle
    goldens: Sequence[Golden]
    options: RunOptions
    folder: Path
    """A temporary folder for the outputs of workers."""

    def served_by(self, artifact: str) -> int:
        """Returns the number of goldens whose sizes an artifact serves; "" is the model itself."""
        if not artifact:
            return len(self.goldens)
        serves = self.bundle.artifact(artifact).serves
        return sum(serves(golden.dims) for golden in self.goldens)

    def spec(self, kind: str, device: str, **fields: Any) -> EngineSpec:
        """Returns what a worker needs to load an engine; see `EngineSpec`."""
        return self.options.spec(self.bundle, kind, device, **fields)


@dataclass(frozen=True)
class Run:
    """The outputs of one engine."""

    outputs: list[Outputs | None]
    """One entry a golden; None where it failed or the artifact does not serve its sizes."""
    errors: Mapping[str, str]
    """Maps a golden that failed to its error."""
    runtime: str = ""
    drift: float = 0.0
    """The largest difference between a first and a second run."""
    error: str = ""
    """The reason why nothing could run."""


@dataclass(frozen=True)
class Reference:
    """The outputs of the model given, which stand in for those of the goldens."""

    outputs: list[Outputs | None]
    """One entry a golden."""
    is_the_goldens: bool
    """True when the model passes on the goldens, so that their float64 values are its own."""


def run_workers(job: Job, specs: Sequence[tuple[EngineSpec, bool]]) -> list[Run]:
    """Runs all goldens by each spec, in one process; True runs them twice, for the drift."""
    folders = [Path(tempfile.mkdtemp(dir=job.folder)) for _ in specs]
    request = {
        "runs": [
            {"spec": spec.to_json(), "folder": str(folder), "repeat": repeat}
            for (spec, repeat), folder in zip(specs, folders, strict=True)
        ]
    }
    try:
        answer = ask_worker(
            "isthmus.proof.verify_worker",
            request,
            threads=job.options.thread_count,
            timeout=job.options.timeout,
        )
    except ExecutionError as error:
        return [Run([], {}, error=str(error)) for _ in specs]
    count = len(job.goldens)
    return [
        read_run(run, folder, count) for run, folder in zip(answer["runs"], folders, strict=True)
    ]


def read_run(answer: Mapping[str, Any], folder: Path, count: int) -> Run:
    """Reads what a worker answered, and the outputs of `count` goldens that it wrote."""
    from safetensors.torch import load_file

    if "error" in answer:
        return Run([], {}, error=str(answer["error"]))
    files = [golden_file(folder, index) for index in range(count)]
    return Run(
        outputs=[load_file(file) if file.exists() else None for file in files],
        errors=answer["errors"],
        runtime=str(answer["runtime"]),
        drift=float(answer["drift"]),
    )


def run_here(job: Job, model: torch.nn.Module, device: str) -> Run:
    """Runs the caller's own module, which cannot be sent to another process."""
    outputs: list[Outputs | None] = [None] * len(job.goldens)
    try:
        engine = EagerEngine(model, job.bundle.manifest, device)
        errors, drift = run_all(engine, job.goldens, outputs.__setitem__, repeat=True)
    except Exception as error:  # whatever the user's module raises is the row's reason
        return Run([], {}, error=f"{type(error).__name__}: {error}")
    return Run(outputs, errors, engine.runtime, drift)


def prove_without_python(job: Job, row: VerifyRow) -> tuple[VerifyRow, str]:
    """Runs `isthmus-run verify --json` for a row; returns the row with its verdict.

    The second value is the reason why the bundle's files were refused; empty when they were not.
    """
    from isthmus.runtime import install_paths

    try:
        binary = str(install_paths.binary())
    except ImportError as error:  # the package was not built
        return replace(row, status="error", reason=str(error)), ""
    spec = job.spec("isthmus", row.device, artifact=row.artifact, engine=row.engine)
    command = [binary, "verify", str(job.bundle.path), "--json", *spec.arguments()]
    try:
        done = run_command(command, threads=spec.threads, timeout=job.options.timeout)
    except ExecutionError as error:
        return replace(row, status="error", reason=str(error)), ""
    if done.returncode not in (0, 1):
        reason = _reason_of_run(done.stdout, done.stderr, done.returncode)
        return replace(row, status="error", reason=reason), reason if done.returncode == 3 else ""
    document = json.loads(done.stdout)
    results, errors, runtime = parity_of_run(document)
    row = replace(row, results=results, runtime=runtime)
    return _decide(
        row, errors, expected=job.served_by(row.artifact), passed=done.returncode == 0
    ), ""


def parity_of_run(
    document: Mapping[str, Any],
) -> tuple[tuple[OutputParity, ...], dict[str, str], str]:
    """Reads the JSON of `isthmus-run verify`; returns results, errors by golden, runtime."""
    results: list[OutputParity] = []
    errors: dict[str, str] = {}
    known = {field.name for field in fields(OutputParity)}
    for row in document["rows"]:
        if row["output"] is None:
            errors[row["golden"]] = row["error"]
            continue
        values = {name: _finite_or_inf(value) for name, value in row.items() if name in known}
        results.append(OutputParity(**values))
    return tuple(results), errors, str(document["context"].get("runtime", ""))


def _finite_or_inf(value: Any) -> Any:
    """Returns a number of the document; infinity is null in JSON."""
    if isinstance(value, dict):
        return {key: _finite_or_inf(number) for key, number in value.items()}
    return math.inf if value is None else value


def _reason_of_run(stdout: str, stderr: str, code: int) -> str:
    """Returns the error that `isthmus-run` reported, else how it ended."""
    try:
        return str(json.loads(stdout)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return explain_exit(code, stderr)


def judge(
    job: Job,
    row: VerifyRow,
    run: Run,
    tolerances: Mapping[str, Tolerance],
    reference: Reference | None,
) -> VerifyRow:
    """Compares the outputs of a run with the reference, by default the goldens'.

    Args:
        job: Has the goldens.
        row: The row to complete.
        run: The outputs.
        tolerances: Maps an output to its tolerance.
        reference: The outputs of the model given; None: those of the goldens.
    """
    row = replace(row, reference="goldens" if reference is None else "model")
    if run.error:
        return replace(row, status="error", reason=run.error)
    results: list[OutputParity] = []
    for index, golden in enumerate(job.goldens):
        actual = run.outputs[index]
        if actual is None:
            continue
        expected = golden_outputs(golden) if reference is None else reference.outputs[index]
        assert expected is not None
        known = reference is None or reference.is_the_goldens
        errors = own_errors(golden, expected) if known else {}
        results += compare_golden(
            golden, expected, actual, tolerances, job.bundle.manifest.noise_floor, errors
        )
    row = replace(row, results=tuple(results))
    return _decide(row, run.errors, expected=job.served_by(row.artifact), passed=True)


def compare_golden(
    golden: Golden,
    expected: Outputs,
    actual: Outputs,
    tolerances: Mapping[str, Tolerance],
    noise_floor: Mapping[str, NoiseFloor],
    errors: Outputs,
    keys: Collection[str] = (),
) -> list[OutputParity]:
    """Compares the outputs of one golden, by STEP/out/NAME.

    Args:
        golden: The golden that was run.
        expected: The reference; an output that only one side has fails.
        actual: The outputs of the run.
        tolerances: Maps an output's name to its tolerance; exact where it is missing.
        noise_floor: Maps an output's name to its noise floor.
        errors: The errors of `expected` to float64, see `own_errors`.
        keys: The outputs to compare; by default all.
    """
    results = []
    for key in keys or {**expected, **actual}:
        name = key.split("/", 2)[2]
        results.append(
            compare(
                name,
                expected.get(key),
                actual.get(key),
                tolerances.get(name, Tolerance(0.0, 0.0)),
                noise_floor.get(name),
                errors.get(key),
                golden=golden.name,
            )
        )
    return results


def _decide(row: VerifyRow, errors: Mapping[str, str], *, expected: int, passed: bool) -> VerifyRow:
    """Sets the status from the results, the goldens that raised, and the process's own verdict."""
    failed = [result for result in row.results if not result]
    seen = len({result.golden for result in row.results} | errors.keys())
    reasons = [f"golden {golden}: {error}" for golden, error in errors.items()]
    reasons += [f"{result.output} of golden {result.golden}: {result.reason}" for result in failed]
    if seen < expected:
        reasons.append(f"only {seen} of {expected} goldens were run")
    if not reasons and not passed:
        reasons.append("the process gave a verdict of failure without a reason")
    if not reasons:
        return replace(row, status="passed", reason="")
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    status: Status = "failed" if row.results else "error"
    return replace(row, status=status, reason=reasons[0] + more)


def golden_outputs(golden: Golden) -> Outputs:
    """Returns eager's outputs at export, by STEP/out/NAME."""
    return {
        f"{index}/out/{name}": value
        for index, step in enumerate(golden.steps)
        for name, value in step.outputs.items()
    }


def own_errors(golden: Golden, reference: Outputs) -> Outputs:
    """Returns the error of the reference to float64, by STEP/out/NAME.

    The reference may differ from the golden by rounding; the float64 value is the golden's.
    """
    import torch

    errors: Outputs = {}
    for index, step in enumerate(golden.steps):
        for name, error in step.errors.items():
            value = reference.get(f"{index}/out/{name}")
            stored = step.outputs[name]
            if value is not None and value.shape == stored.shape and value.dtype == stored.dtype:
                wide = torch.complex128 if error.is_complex() else torch.float64
                drift = value.cpu().to(wide) - stored.to(wide)
                # Where both are infinite or NaN there is no drift.
                errors[f"{index}/out/{name}"] = error.to(wide) + drift.nan_to_num(0.0)
    return errors


def against_jit(row: VerifyRow, run: Run | None, plain: Run | None, device: str) -> VerifyRow:
    """Adds the difference to `torch.jit`, which has to be 0 on the CPU."""
    if run is None or plain is None or run.error or plain.error:
        return row
    furthest = 0.0
    for ours, theirs in zip(run.outputs, plain.outputs, strict=True):
        if ours is None or theirs is None:
            continue
        for key in ours.keys() | theirs.keys():
            furthest = max(furthest, difference(ours.get(key), theirs.get(key)))
    row = replace(row, vs_torch_jit=furthest)
    # Where torch.jit itself drifts from call to call, equality cannot be asked for.
    if row and device == "cpu" and furthest > plain.drift:
        reason = (
            f"differs by {furthest:.3g} from torch.jit in Python on the same artifact, threads and"
            " flags, expected 0; are both the same LibTorch? see isthmus doctor"
        )
        row = replace(row, status="failed", reason=reason)
    return row
