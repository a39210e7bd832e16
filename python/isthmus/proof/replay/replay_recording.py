"""Runs recorded calls again, through eager and every engine, to find what is wrong.

`LoadOptions::record` keeps the inputs and outputs of a program's calls. The same inputs are run
through the model (`--model`) in float32 and float64, and through every engine of the bundle here.
The recorded answers are judged like any other row of verify.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.manifest import Tolerance
from isthmus.goldens.compare import OutputParity, compare
from isthmus.proof.replay.answer import Answer
from isthmus.proof.replay.difference import InputDifference
from isthmus.proof.replay.expected_input import input_differences
from isthmus.proof.replay.recording_checks import (
    artifact_notes,
    check_one_model,
    check_same_model,
    find_call,
    first_calls,
    unfinished_notes,
)
from isthmus.proof.replay.records import RecordedRun, read_recording
from isthmus.proof.replay.reference import CallSequence, Reference, call_sequences
from isthmus.proof.replay.report import ReplayReport
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.run_options import RunOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden
    from isthmus.bundle.manifest import Artifact
    from isthmus.proof.verify_report import VerifyReport


__all__ = ["replay", "replay_recording"]

MOST_CALLS = 100
"""The default number of calls to replay."""


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
        bundle: The bundle; None: the path of the bundle that was recorded.
        model: The eager module, which then is the reference. Without it, the recorded answers are.
        expect: The expected inputs by name: tensors, or a .npz or .safetensors file.
        call: The recorded call that `expect` belongs to, by its name or number; None: the first.
        engines: The engines to run, as in `isthmus.verify`; None: all that the artifacts have.
        calls: The number of calls to replay, from the first on.
        threads: The intra-operator threads of every runtime; None: the processors usable.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        timeout: The seconds that each process may take.
        progress: Called with a line at each stage.

    Returns:
        The report: truthy when every recorded answer is right, and the input is the one expected.

    Raises:
        InvalidInput: There is no recording, it is damaged, or it is of another model.
        BundleError: The bundle is not valid.
    """
    options = RunOptions(
        engines=engines,
        threads=threads,
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return replay_recording(
        path, options, bundle=bundle, model=model, expect=expect, call=call, calls=calls
    )


def replay_recording(
    path: str | Path,
    options: RunOptions,
    *,
    bundle: str | Path | Bundle | None = None,
    model: torch.nn.Module | str | None = None,
    expect: str | Path | Mapping[str, Tensor] | None = None,
    call: str | None = None,
    calls: int = MOST_CALLS,
) -> ReplayReport:
    """Replays a recording under options that several steps share; see `replay`."""
    from isthmus.bundle.bundle import open_bundle, with_goldens
    from isthmus.proof.verify import verify_bundle

    runs = read_recording(path)
    check_one_model(path, runs)
    source = runs[0].bundle if bundle is None else bundle
    opened = open_bundle(source)
    check_same_model(opened, runs[0])
    differences: tuple[InputDifference, ...] = ()
    compared = ""
    if expect is not None:
        recorded = find_call(runs, call)
        compared, differences = recorded.name, input_differences(recorded, expect)
    selected, notes = first_calls(runs, calls)
    sequences = call_sequences(opened.manifest, selected)
    with tempfile.TemporaryDirectory(prefix="isthmus-replay-") as folder:
        reference = Reference(opened.manifest, model)
        if model is not None:
            options.say(f"eager on {len(sequences)} recorded sequences of calls")
        goldens = [
            sequence for sequence in map(reference.golden, sequences) if sequence is not None
        ]
        parity: VerifyReport | None = None
        if goldens:
            probes = with_goldens(opened, goldens, Path(folder, "recorded"))
            devices = _present_devices(selected)
            parity = verify_bundle(probes, replace(options, devices=devices))
    by_name = {golden.name: golden for golden in goldens}
    answers = [
        _judge(opened, sequence, at, by_name.get(sequence.name), reference)
        for sequence in sequences
        for at in range(len(sequence.calls))
    ]
    answers += [
        Answer(call.name, run.engine, run.device, "refused", call.error)
        for run in selected
        for call in run.calls
        if call.refused
    ]
    return ReplayReport(
        recording=str(path),
        bundle=opened.manifest.name,
        answers=tuple(answers),
        parity=parity,
        differences=differences,
        compared_call=compared,
        has_model=model is not None,
        context={
            "recording": str(path),
            "recorded by": "; ".join(dict.fromkeys(_label(run) for run in runs)),
            "bundle": str(opened.path),
            **machine_facts(),
            "threads": str(options.thread_count),
            "reference": "the model given" if model is not None else "what was recorded",
        },
        notes=(
            *notes,
            *artifact_notes(opened, runs),
            *reference.notes,
            *unfinished_notes(runs),
        ),
    )


def _present_devices(runs: Sequence[RecordedRun]) -> tuple[str, ...]:
    """Returns the devices of the recorded calls that this machine has, else "cpu"."""
    present = devices_present()
    recorded = dict.fromkeys(run.device for run in runs)
    here = [device for device in recorded if not present.get(device.partition(":")[0], "unknown")]
    return tuple(here) or ("cpu",)


def _judge(
    bundle: Bundle, sequence: CallSequence, at: int, golden: Golden | None, reference: Reference
) -> Answer:
    """Judges a recorded answer by the reference."""
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
    """Returns the artifact that was recorded, else one in fp32, else the first."""
    artifacts = bundle.manifest.artifacts
    named = [artifact for artifact in artifacts if artifact.name == run.artifact]
    plain = [artifact for artifact in artifacts if artifact.precision == "fp32"]
    return (named or plain or list(artifacts))[0]


def _label(run: RecordedRun) -> str:
    return f"{run.runtime} on {run.device}, {run.threads or 'default'} threads"
