"""Sends a stream of sentences through every contender, compares and times them in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from shapes import MODELS
from shared import compile_program

from isthmus.runtime import install_paths

from .answers import check_stream
from .bundles import ModelFiles
from .kinds import OUTPUT, Contender, Request, Shape
from .limit import flops
from .processes import (
    Runner,
    command_of,
    ending,
    heats,
    mixed,
    quit_all,
    run,
    start,
    take_turns,
)
from .rows import STREAM, Row, row_of
from .shape_run import Effort, request_of, why_absent
from .stream_calls import SAMPLE, threads_of
from .text import Stream, single

PEERS = (
    "torch.jit traced",
    "ONNX Runtime",
    "OpenVINO",
    "OpenVINO, converted",
    "AOTInductor, frozen",
    "CTranslate2",
)
"""The names of `kinds.PEERS` that take any shape without compiling it anew, in float32."""
SOURCE = Path(__file__).with_name("stream.cpp")


@dataclass(frozen=True)
class Batching:
    """The batching limits of all contenders."""

    batch: int = 16
    workers: int = 2
    """The concurrent calls of isthmus, each with threads / workers threads."""
    padding: float = 0.1


@dataclass(frozen=True)
class StreamSettings:
    """A stream and the settings that all contenders share."""

    model: ModelFiles
    stream: Stream
    expected: Mapping[str, np.ndarray]
    """The eager module's answer to each sampled sentence."""
    batching: Batching
    effort: Effort
    """The effort; a turn is a pass, whatever `turn_seconds` says."""
    program: tuple[Path | None, str]
    """The C++ program, or None and the reason why there is none."""
    folder: Path


def measure_stream(
    model: ModelFiles,
    stream: Stream,
    contenders: Sequence[Contender],
    batching: Batching,
    effort: Effort,
    program: tuple[Path | None, str],
    say: Callable[[str], None],
) -> list[Row]:
    """Returns a row for isthmus with its batcher, and two rows for each peer that takes part."""
    pairs = [(contender, order) for contender in contenders for order in orders(contender)]
    with tempfile.TemporaryDirectory(prefix="isthmus-peers-") as name:
        folder = Path(name)
        stream.save(folder / "stream.npz")
        say("answers of the eager module")
        expected = _expected(model, stream, effort.threads)
        settings = StreamSettings(model, stream, expected, batching, effort, program, folder)
        parts = heats(pairs, model.weights_mb, lambda pair: pair[0].auto)
        return [row for heat, part in enumerate(parts) for row in _heat(settings, part, heat, say)]


def _heat(
    settings: StreamSettings,
    pairs: Sequence[tuple[Contender, str]],
    heat: int,
    say: Callable[[str], None],
) -> list[Row]:
    runners = [Runner(contender, calls=1) for contender, _ in pairs]
    with ending(runners):
        members = list(zip(runners, pairs, strict=True))
        for runner, (_, order) in mixed(members, f"{settings.model.name}, {heat}"):
            say(f"starting {runner.contender.label}, {order}")
            _start(settings, runner, order)
        take_turns(runners, settings.effort.rounds, 0, say)
        quit_all(runners)
    lengths = settings.stream.lengths
    return [
        row_of(
            settings.model.name, STREAM, runner,
            heat=heat,
            order=order,
            sentences=len(lengths),
            tokens=sum(lengths),
            elements=runner.elements,
            flops=sum(flops(settings.model.config, Shape(1, length)) for length in lengths),
        )
        for runner, (_, order) in zip(runners, pairs, strict=True)
    ]  # fmt: skip


def _start(settings: StreamSettings, runner: Runner, order: str) -> None:
    """Starts a runner, compares its answers and warms it up."""
    contender = runner.contender
    in_cpp = contender.language == "C++"
    runner.reason = why_absent(settings.model, contender)
    program, reason = settings.program
    if in_cpp and program is None:
        runner.reason = reason
    if runner.reason:
        return
    request = replace(
        request_of(
            settings.model, contender, settings.effort.threads, settings.folder / "stream.npz"
        ),
        order=order,
        batch=settings.batching.batch,
        workers=settings.batching.workers,
        padding=settings.batching.padding,
    )
    command = _native(program, request) if in_cpp else command_of(request, settings.folder)
    alone = order != "batcher"
    start(runner, command, settings.effort.threads if alone else threads_of(request))
    answer = settings.folder / ("answer.safetensors" if in_cpp else "answer.npz")
    check_stream(runner, answer, settings.expected, settings.model.bundle)
    run(runner, 1)


def orders(contender: Contender) -> tuple[str, ...]:
    """Returns the orders in which a contender batches the stream; empty when it takes no part."""
    if contender.ours:
        return ("batcher",)
    return ("arrival", "sorted") if contender.name in PEERS else ()


def _expected(model: ModelFiles, stream: Stream, threads: int) -> Mapping[str, np.ndarray]:
    """Returns the eager module's answer to each sampled sentence alone."""
    module = MODELS[model.name]()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    answers = {}
    with torch.inference_mode():
        for at in range(0, len(stream.ids), SAMPLE):
            inputs = {name: torch.from_numpy(v) for name, v in single(stream.ids[at]).items()}
            answers[str(at)] = module(**inputs)[OUTPUT][0].numpy()
    torch.set_num_threads(before)
    return answers


def build_program(folder: Path) -> tuple[Path | None, str]:
    """Compiles the C++ program against the installed isthmus; see `shared.compile_program`."""
    libraries = install_paths.lib_dir()
    flags = [
        f"-I{install_paths.include_dir()}", f"-L{libraries}", "-listhmus",
        f"-Wl,-rpath,{libraries}", "-pthread",
    ]  # fmt: skip
    program = folder / "isthmus-peers-stream"
    return compile_program(SOURCE, program, flags, [libraries / "libisthmus.so"])


def _native(program: Path | None, request: Request) -> list[str]:
    """Returns the command of stream.cpp."""
    return [
        str(program), request.bundle, request.inputs, request.contender.engine,
        str(threads_of(request)),
        str(request.workers), str(request.batch), str(request.padding), str(SAMPLE),
        request.contender.option,
    ]  # fmt: skip
