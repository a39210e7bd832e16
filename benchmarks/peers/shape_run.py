"""Starts every contender of a model on a shape, compares and times them in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from shared import turns

from . import limit
from .answers import check_call
from .bundles import ModelFiles
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
    """The amount of measurement."""

    threads: int
    rounds: int
    turn_seconds: float
    least_calls: int = 2
    """The least calls in a turn, however long they take."""
    discarded: int = 1
    """The calls discarded at the start of each turn."""


def request_of(model: ModelFiles, contender: Contender, threads: int, inputs: Path) -> Request:
    """Returns the request for the contender's process."""
    return Request(
        contender=contender,
        threads=threads,
        bundle=str(model.bundle.path.resolve()),
        file=str(Path(model.files.get(contender.file, "")).resolve()),
        factory=model.factory,
        inputs=str(inputs),
    )


def why_absent(model: ModelFiles, contender: Contender) -> str:
    """Returns the reason why the contender has nothing to run; empty when it has."""
    if contender.ours and contender.engine != "auto" and contender.engine not in model.engines:
        return f"the bundle has no artifact for the engine {contender.engine}"
    names = [artifact.name for artifact in model.bundle.manifest.artifacts]
    if contender.ours and contender.option and contender.option not in names:
        return model.absent.get(contender.option, f"the bundle has no {contender.option}")
    if contender.file and contender.file not in model.files:
        return model.absent.get(contender.file, "the export has no such file")
    return ""


def measure_shape(
    model: ModelFiles,
    shape: Shape,
    contenders: Sequence[Contender],
    effort: Effort,
    say: Callable[[str], None],
) -> list[Row]:
    """Returns a row for each contender, and a row of `auto` for each heat."""
    parts = heats(contenders, model.weights_mb, lambda contender: contender.auto)
    return [
        row
        for heat, part in enumerate(parts)
        for row in _heat(model, shape, part, effort, heat, say)
    ]


def _heat(
    model: ModelFiles,
    shape: Shape,
    contenders: Sequence[Contender],
    effort: Effort,
    heat: int,
    say: Callable[[str], None],
) -> list[Row]:
    golden = model.golden(shape).steps[0]
    expected = golden.outputs[OUTPUT].numpy()
    runners = [Runner(contender) for contender in contenders]
    with tempfile.TemporaryDirectory(prefix="isthmus-peers-") as name, ending(runners):
        folder = Path(name)
        inputs = save_inputs(folder, model, shape)
        for runner in mixed(runners, f"{model.name}, {shape}, {heat}"):
            runner.reason = why_absent(model, runner.contender)
            if runner.reason:
                continue
            say(f"starting {runner.contender.label}")
            request = request_of(model, runner.contender, effort.threads, inputs)
            start(runner, command_of(request, folder), effort.threads)
            if runner.worker is not None:
                check_call(runner, request, expected, model.bundle)
        warm_up(runners, effort.turn_seconds, effort.least_calls, say)
        take_turns(runners, effort.rounds, effort.discarded, say)
        quit_all(runners)
    return [
        row_of(
            model.name, str(shape), runner,
            heat=heat,
            flops=limit.flops(model.config, shape),
            weight_bytes=limit.weight_bytes(model.config),
            sentences=shape.batch,
            tokens=shape.batch * shape.sequence,
            elements=shape.batch * shape.sequence,
        )
        for runner in runners
    ]  # fmt: skip


def save_inputs(folder: Path, model: ModelFiles, shape: Shape) -> Path:
    """Writes the golden's inputs for Python and C++."""
    values = model.golden(shape).steps[0].inputs
    path = folder / "inputs.npz"
    np.savez(path, **{name: values[name].numpy() for name in INPUTS})
    return path


def measure_starts(
    model: ModelFiles,
    shape: Shape,
    contenders: Sequence[Contender],
    threads: int,
    times: int,
    say: Callable[[str], None],
) -> list[Start]:
    """Measures the time from process start to the first answer in turns, and the peak memory.

    The files are in the page cache, and torch.compile's cache is filled. isthmus does not warm up,
    as in a program that answers once.
    """
    runners: dict[str, list[Runner]] = {contender.label: [] for contender in contenders}
    by_label = {
        contender.label: contender for contender in contenders if not why_absent(model, contender)
    }
    with tempfile.TemporaryDirectory(prefix="isthmus-peers-") as name:
        folder = Path(name)
        inputs = save_inputs(folder, model, shape)
        for turn, label in turns(by_label, times + 1):
            say(f"process start {turn} of {times}: {label}")
            runner = Runner(by_label[label])
            with ending([runner]):
                request = request_of(model, runner.contender, threads, inputs)
                command = command_of(replace(request, warmup=False), folder)
                start(runner, command, threads)
                quit_all([runner])
            if turn > 0 or runner.reason:  # the first fills the page cache
                runners[label].append(runner)
    return [
        Start(
            model.name,
            contender,
            reason=why_absent(model, contender)
            or next((runner.reason for runner in runners[contender.label] if runner.reason), ""),
            seconds=tuple(r.start_ms / 1e3 for r in runners[contender.label] if not r.reason),
            peak_rss_bytes=max((r.peak_rss_bytes for r in runners[contender.label]), default=0),
        )
        for contender in contenders
    ]
