"""Whose fault: the model or the input? Recorded calls, again, through eager and every engine.

`LoadOptions::record` keeps what a program really gave and got. The same inputs are run through the
model (`--model`) in float32 and float64, and through every engine of the bundle here; the recorded
answers are judged like any other row of verify.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Tolerance
from isthmus.bundle.tensor_file import read_tensors
from isthmus.errors import InvalidInput
from isthmus.goldens.compare import OutputParity, compare
from isthmus.proof.replay.difference import InputDifference, input_difference
from isthmus.proof.replay.records import RecordedCall, RecordedRun, read_recording
from isthmus.proof.replay.reference import CallSequence, Reference, call_sequences
from isthmus.proof.replay.report import Answer, ReplayReport
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.workers import available_cores

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden
    from isthmus.bundle.manifest import Artifact
    from isthmus.proof.verify_report import VerifyReport


__all__ = ["replay"]

MOST_CALLS = 100
"""Calls that are replayed unless more are asked for."""


def replay(
    path: str | Path,
    *,
    bundle: str | Path | Bundle | None = None,
    model: torch.nn.Module | str | None = None,
    expect: str | Path | Mapping[str, Tensor] | None = None,
    call: str | None = None,
    engines: Sequence[str] | None = None,
    calls: int = MOST_CALLS,
    threads: int | None = None,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    timeout: float = 600.0,
    progress: Callable[[str], None] | None = None,
) -> ReplayReport:
    """Says whether the model, an engine, the program or its input is to blame.

    Args:
        path: The folder that calls were recorded to.
        bundle: The bundle; None: where it lay when it was recorded.
        model: The eager module, which then is the reference. Without it, the engines can only be
            compared with what was recorded.
        expect: What the input should have been, by name: values, or a .npz or .safetensors file.
        call: The recorded call that `expect` belongs to, by its name or the end of it; the first.
        engines: As `isthmus.verify` takes them; None: all that the bundle's artifacts have.
        calls: The first so many are replayed.
        threads: Of every runtime; None: the processors usable.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        timeout: Seconds that each process may take.
        progress: Called with a line at each stage.

    Returns:
        The report: truthy when every recorded answer is right, and so is the input if one was
        expected.

    Raises:
        InvalidInput: There is no recording, it is damaged, or it is of another model.
        BundleError: There is no good bundle.
    """
    from isthmus.bundle.bundle import Bundle, open_bundle

    say = progress or (lambda _: None)
    runs = read_recording(path)
    _one_model(path, runs)
    if isinstance(bundle, Bundle):
        opened = bundle
    else:
        opened = open_bundle(Path(bundle if bundle is not None else runs[0].bundle))
    _same_model(opened, runs[0])
    differences, compared = _differences(runs, expect, call)
    taken, notes = _taken(runs, calls)
    sequences = call_sequences(opened.manifest, taken)
    with tempfile.TemporaryDirectory(prefix="isthmus-replay-") as folder:
        reference = Reference(opened.manifest, model)
        if model is not None:
            say(f"eager on {len(sequences)} recorded sequences of calls")
        goldens = [
            sequence for sequence in map(reference.golden, sequences) if sequence is not None
        ]
        parity: VerifyReport | None = None
        if goldens:
            parity = _verify(
                opened, goldens, Path(folder), taken, engines,
                threads=threads, trust=trust, op_libraries=op_libraries, timeout=timeout, say=say,
            )  # fmt: skip
    by_name = {golden.name: golden for golden in goldens}
    answers = [
        _judged(opened, sequence, at, by_name.get(sequence.name), reference)
        for sequence in sequences
        for at in range(len(sequence.calls))
    ]
    answers += [
        Answer(call.name, run.engine, run.device, "refused", call.error)
        for run in taken
        for call in run.calls
        if call.refused
    ]
    return ReplayReport(
        recording=str(path),
        bundle=opened.manifest.name,
        answers=tuple(answers),
        parity=parity,
        differences=tuple(differences),
        compared_call=compared,
        has_model=model is not None,
        context={
            "recording": str(path),
            "recorded by": "; ".join(dict.fromkeys(_label(run) for run in runs)),
            "bundle": str(opened.path),
            **machine_facts(),
            "threads": str(threads or available_cores()),
            "reference": "the model given" if model is not None else "what was recorded",
        },
        notes=(*notes, *_foreign(opened, runs), *reference.notes, *_unfinished(runs)),
    )


# --- what was recorded ----------------------------------------------------------------------------


def _one_model(path: str | Path, runs: Sequence[RecordedRun]) -> None:
    names = dict.fromkeys(run.model for run in runs)
    if len(names) > 1:
        raise InvalidInput(
            f"{path}: expected the calls of one model, got those of {', '.join(names)}; record"
            " each model to a folder of its own"
        )


def _same_model(bundle: Bundle, run: RecordedRun) -> None:
    if bundle.manifest.name != run.model:
        raise InvalidInput(
            f"the calls were recorded of {run.model!r}, but the bundle {bundle.path} is"
            f" {bundle.manifest.name!r}; give the bundle that was recorded"
        )


def _foreign(bundle: Bundle, runs: Sequence[RecordedRun]) -> list[str]:
    """Whether the program ran another artifact than the bundle given has."""
    found = []
    known = {artifact.name: artifact for artifact in bundle.manifest.artifacts}
    for run in runs:
        artifact = known.get(run.artifact)
        if artifact is None:
            names = ", ".join(known)
            found.append(f"the program ran the artifact {run.artifact}; this bundle has {names}")
        elif tuple(file.sha256 for file in artifact.files) != run.digests:
            found.append(
                f"the program ran another {run.artifact} than this bundle has: its sha256 was"
                f" {run.digests[0][:12]}..., here it is {artifact.files[0].sha256[:12]}...; deploy"
                " this bundle, or replay with the one that was deployed"
            )
    return list(dict.fromkeys(found))


def _unfinished(runs: Sequence[RecordedRun]) -> list[str]:
    count = sum(run.unfinished for run in runs)
    if not count:
        return []
    return [f"{count} calls were not finished: the process ended in them; they are left out"]


def _taken(runs: Sequence[RecordedRun], most: int) -> tuple[list[RecordedRun], list[str]]:
    """The first calls, and a note of what is left out."""
    if most < 1:
        raise InvalidInput(f"calls is {most}, expected 1 or more")
    total = sum(len(run.calls) for run in runs)
    if not total:
        raise InvalidInput("nothing was recorded: the program made no call after it had loaded")
    taken, left = [], most
    for run in runs:
        taken.append(replace(run, calls=run.calls[:left]))
        left -= len(taken[-1].calls)
    notes = []
    if total > most:
        notes.append(f"the first {most} of {total} recorded calls are replayed (--calls)")
    return taken, notes


# --- the judging ----------------------------------------------------------------------------------


def _verify(
    bundle: Bundle,
    goldens: Sequence[Golden],
    folder: Path,
    runs: Sequence[RecordedRun],
    engines: Sequence[str] | None,
    *,
    say: Callable[[str], None],
    **options: Any,
) -> VerifyReport:
    """Every engine here on the recorded inputs, on the devices they were recorded on."""
    from isthmus.bundle.bundle import with_goldens
    from isthmus.proof.verify import verify

    present = devices_present()
    devices = [
        fromkey
        for fromkey in dict.fromkeys(run.device for run in runs)
        if not present.get(fromkey.partition(":")[0], "unknown")
    ]
    probes = with_goldens(bundle, goldens, folder / "recorded")
    return verify(probes, None, engines, devices or ["cpu"], progress=say, **options)


def _judged(
    bundle: Bundle, sequence: CallSequence, at: int, golden: Golden | None, reference: Reference
) -> Answer:
    """A recorded answer against the reference."""
    call, run = sequence.calls[at], sequence.run
    answer = Answer(call.name, run.engine, run.device, "right", golden=sequence.name)
    if call.error:
        return replace(answer, status="failed", reason=call.error)
    failure = reference.failure(sequence.name)
    if failure:
        return replace(answer, status="model fails", reason=f"the model itself: {failure}")
    if not reference.known or golden is None or at >= len(golden.steps):
        return replace(answer, status="unknown", reason="" if golden else "there is no reference")
    artifact = _artifact(bundle, run)
    step = golden.steps[at]
    results: list[OutputParity] = [
        compare(
            name,
            step.outputs.get(name),
            call.outputs.get(name),
            artifact.tolerances.get(name, Tolerance(0.0, 0.0)),
            bundle.manifest.noise_floor.get(name),
            step.errors.get(name),
            golden=sequence.name,
        )
        for name in {**step.outputs, **call.outputs}
    ]
    bad = [result for result in results if not result]
    reason = f"{bad[0].output}: {bad[0].reason}" if bad else ""
    return replace(
        answer, status="wrong" if bad else "right", reason=reason, results=tuple(results)
    )


def _artifact(bundle: Bundle, run: RecordedRun) -> Artifact:
    """The one that was recorded; where the bundle has it no more, one of plain precision."""
    artifacts = bundle.manifest.artifacts
    named = [artifact for artifact in artifacts if artifact.name == run.artifact]
    plain = [artifact for artifact in artifacts if artifact.precision == "fp32"]
    return (named or plain or list(artifacts))[0]


# --- the input ------------------------------------------------------------------------------------


def _differences(
    runs: Sequence[RecordedRun],
    expect: str | Path | Mapping[str, Tensor] | None,
    name: str | None,
) -> tuple[list[InputDifference], str]:
    """Each input of one recorded call against the one expected, and which call that is."""
    if expect is None:
        return [], ""
    expected = dict(expect) if isinstance(expect, Mapping) else _read(Path(expect))
    call = _chosen(runs, name)
    names = list(dict.fromkeys((*expected, *call.inputs)))
    return [
        _with_strides(input_difference(name, expected.get(name), call.inputs.get(name)), call)
        for name in names
    ], call.name


def _with_strides(found: InputDifference, call: RecordedCall) -> InputDifference:
    """How the program gave it, where that may be the cause."""
    given = call.given.get(found.name)
    if found or not given or not given["strides"]:
        return found
    text = f"; it was given as a view with strides {given['strides']}"
    return replace(found, sentence=found.sentence + text)


def _chosen(runs: Sequence[RecordedRun], name: str | None) -> RecordedCall:
    calls = [call for run in runs for call in run.calls]
    if not calls:
        raise InvalidInput("nothing was recorded: the program made no call after it had loaded")
    if name is None:
        return calls[0]
    for one in calls:
        if one.name == name or (name.isdecimal() and one.name.endswith(f"-{int(name):06}")):
            return one
    raise InvalidInput(
        f"call {name!r} was not recorded; expected a number up to {len(calls) - 1}, or one of"
        f" {calls[0].name} to {calls[-1].name}"
    )


def _read(path: Path) -> dict[str, Tensor]:
    """Inputs by name; those of a golden's or a recording's first call too."""
    return {
        name.removeprefix("0/in/"): value
        for name, value in read_tensors(path, "expect").items()
        if not name.partition("/")[0].isdecimal() or name.startswith("0/in/")
    }


def _label(run: RecordedRun) -> str:
    return f"{run.runtime} on {run.device}, {run.threads or 'default'} threads"
