"""One model on one shape: every contender started, compared, and timed in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from shared import turns

from . import limit
from .answers import check_call
from .bundles import Subject
from .kinds import INPUTS, OUTPUT, Contender, Request, Shape
from .processes import (
    Runner,
    command_of,
    ending,
    heats,
    mixed,
    quit_all,
    start,
    take_turns,
    warm_up,
)
from .rows import Row, Start, row_of


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    threads: int
    rounds: int
    turn_seconds: float
    least_calls: int = 2
    """In a turn, however long they take."""
    discarded: int = 1
    """Calls thrown away at the start of each turn."""


def request_of(subject: Subject, contender: Contender, threads: int, inputs: Path) -> Request:
    """What the contender's process is asked for."""
    return Request(
        contender=contender,
        threads=threads,
        bundle=str(subject.bundle.path.resolve()),
        file=str(Path(subject.files.get(contender.file, "")).resolve()),
        factory=subject.factory,
        inputs=str(inputs),
    )


def why_absent(subject: Subject, contender: Contender) -> str:
    """Why the contender has nothing to run; empty when it has."""
    if contender.ours and contender.engine != "auto" and contender.engine not in subject.engines:
        return f"the bundle has no artifact for the engine {contender.engine}"
    names = [artifact.name for artifact in subject.bundle.manifest.artifacts]
    if contender.ours and contender.option and contender.option not in names:
        return subject.absent.get(contender.option, f"the bundle has no {contender.option}")
    if contender.file and contender.file not in subject.files:
        return subject.absent.get(contender.file, "the export has no such file")
    return ""


def measure_shape(
    subject: Subject,
    shape: Shape,
    contenders: Sequence[Contender],
    effort: Effort,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each contender, and one of `auto` for each heat."""
    parts = heats(contenders, subject.weights_mb, lambda one: one.auto)
    return [
        row
        for heat, part in enumerate(parts)
        for row in _heat(subject, shape, part, effort, heat, say)
    ]


def _heat(
    subject: Subject,
    shape: Shape,
    contenders: Sequence[Contender],
    effort: Effort,
    heat: int,
    say: Callable[[str], None],
) -> list[Row]:
    golden = subject.golden(shape).steps[0]
    expected = golden.outputs[OUTPUT].numpy()
    runners = [Runner(contender) for contender in contenders]
    with tempfile.TemporaryDirectory(prefix="isthmus-peers-") as name, ending(runners):
        folder = Path(name)
        inputs = save_inputs(folder, subject, shape)
        for runner in mixed(runners, f"{subject.name}, {shape}, {heat}"):
            runner.reason = why_absent(subject, runner.contender)
            if runner.reason:
                continue
            say(f"starting {runner.contender.label}")
            request = request_of(subject, runner.contender, effort.threads, inputs)
            start(runner, command_of(request, folder), effort.threads)
            if runner.worker is not None:
                check_call(runner, request, expected, subject.bundle)
        warm_up(runners, effort.turn_seconds, effort.least_calls, say)
        take_turns(runners, effort.rounds, effort.discarded, say)
        quit_all(runners)
    return [
        row_of(
            subject.name, str(shape), runner,
            heat=heat,
            flops=limit.flops(subject.config, shape),
            weight_bytes=limit.weight_bytes(subject.config),
            sentences=shape.batch,
            tokens=shape.batch * shape.sequence,
            elements=shape.batch * shape.sequence,
        )
        for runner in runners
    ]  # fmt: skip


def save_inputs(folder: Path, subject: Subject, shape: Shape) -> Path:
    """The golden's inputs as a file that Python and C++ read."""
    values = subject.golden(shape).steps[0].inputs
    path = folder / "inputs.npz"
    np.savez(path, **{name: values[name].numpy() for name in INPUTS})
    return path


def measure_starts(
    subject: Subject,
    shape: Shape,
    contenders: Sequence[Contender],
    threads: int,
    times: int,
    say: Callable[[str], None],
) -> list[Start]:
    """From the start of a process to its first answer, so many times, in turns; and its memory.

    The files are in the page cache, and what torch.compile keeps on disk is there. isthmus does not
    warm up, as for a program that answers once.
    """
    found: dict[str, list[Runner]] = {contender.label: [] for contender in contenders}
    by_label = {
        contender.label: contender for contender in contenders if not why_absent(subject, contender)
    }
    with tempfile.TemporaryDirectory(prefix="isthmus-peers-") as name:
        folder = Path(name)
        inputs = save_inputs(folder, subject, shape)
        for turn, label in turns(by_label, times + 1):
            say(f"process start {turn} of {times}: {label}")
            runner = Runner(by_label[label])
            with ending([runner]):
                request = request_of(subject, runner.contender, threads, inputs)
                command = command_of(replace(request, warmup=False), folder)
                start(runner, command, threads)
                quit_all([runner])
            if turn > 0 or runner.reason:  # the first fills the page cache
                found[label].append(runner)
    return [
        Start(
            subject.name,
            contender,
            reason=why_absent(subject, contender)
            or next((runner.reason for runner in found[contender.label] if runner.reason), ""),
            seconds=tuple(r.start_ms / 1e3 for r in found[contender.label] if not r.reason),
            peak_rss_bytes=max((r.peak_rss_bytes for r in found[contender.label]), default=0),
        )
        for contender in contenders
    ]
