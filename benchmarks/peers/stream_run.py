"""A stream of sentences through every way of batching them, compared and timed in turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from shapes import MODELS

from isthmus.errors import EngineUnavailable
from isthmus.runtime import install_paths

from .answers import check_stream
from .bundles import Subject
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
"""Of `kinds.PEERS`: those that take any shape without compiling it anew, in float32."""
SOURCE = Path(__file__).with_name("stream.cpp")


@dataclass(frozen=True)
class Batching:
    """The limits of everybody."""

    batch: int = 16
    workers: int = 2
    """Calls of isthmus at once, each with threads / workers threads."""
    padding: float = 0.1


@dataclass(frozen=True)
class Sent:
    """A stream, and what holds for all that take part in it."""

    subject: Subject
    stream: Stream
    expected: Mapping[str, np.ndarray]
    """What the eager module says to each sentence of the sample."""
    batching: Batching
    effort: Effort
    """A turn is one pass, whatever this says of seconds."""
    program: Path | str
    """The C++ program, or why there is none."""
    folder: Path


def measure_stream(
    subject: Subject,
    stream: Stream,
    contenders: Sequence[Contender],
    batching: Batching,
    effort: Effort,
    program: Path | str,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for isthmus's contenders with its batcher, two for each peer that takes part."""
    pairs = [(contender, order) for contender in contenders for order in orders(contender)]
    with tempfile.TemporaryDirectory(prefix="isthmus-peers-") as name:
        folder = Path(name)
        stream.save(folder / "stream.npz")
        say("answers of the eager module")
        expected = _expected(subject, stream, effort.threads)
        sent = Sent(subject, stream, expected, batching, effort, program, folder)
        parts = heats(pairs, subject.weights_mb, lambda pair: pair[0].auto)
        return [row for heat, part in enumerate(parts) for row in _heat(sent, part, heat, say)]


def _heat(
    sent: Sent, pairs: Sequence[tuple[Contender, str]], heat: int, say: Callable[[str], None]
) -> list[Row]:
    runners = [Runner(contender, calls=1) for contender, _ in pairs]
    with ending(runners):
        everybody = list(zip(runners, pairs, strict=True))
        for runner, (_, order) in mixed(everybody, f"{sent.subject.name}, {heat}"):
            say(f"starting {runner.contender.label}, {order}")
            _start(sent, runner, order)
        take_turns(runners, sent.effort.rounds, 0, say)
        quit_all(runners)
    lengths = sent.stream.lengths
    return [
        row_of(
            sent.subject.name, STREAM, runner,
            heat=heat,
            order=order,
            sentences=len(lengths),
            tokens=sum(lengths),
            elements=runner.elements,
            flops=sum(flops(sent.subject.config, Shape(1, length)) for length in lengths),
        )
        for runner, (_, order) in zip(runners, pairs, strict=True)
    ]  # fmt: skip


def _start(sent: Sent, runner: Runner, order: str) -> None:
    """Starts one, compares its answers, and lets it run once more to be warm."""
    contender = runner.contender
    in_cpp = contender.language == "C++"
    runner.reason = why_absent(sent.subject, contender)
    if in_cpp and isinstance(sent.program, str):
        runner.reason = sent.program
    if runner.reason:
        return
    request = replace(
        request_of(sent.subject, contender, sent.effort.threads, sent.folder / "stream.npz"),
        order=order,
        batch=sent.batching.batch,
        workers=sent.batching.workers,
        padding=sent.batching.padding,
    )
    command = _native(sent.program, request) if in_cpp else command_of(request, sent.folder)
    alone = order != "batcher"
    start(runner, command, sent.effort.threads if alone else threads_of(request))
    answer = sent.folder / ("answer.safetensors" if in_cpp else "answer.npz")
    check_stream(runner, answer, sent.expected, sent.subject.bundle)
    run(runner, 1)


def orders(contender: Contender) -> tuple[str, ...]:
    """How a contender batches the stream; none when it takes no part."""
    if contender.ours:
        return ("batcher",)
    return ("arrival", "sorted") if contender.name in PEERS else ()


def _expected(subject: Subject, stream: Stream, threads: int) -> Mapping[str, np.ndarray]:
    """What the eager module says to each sentence of the sample alone."""
    module = MODELS[subject.name]()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = {}
    with torch.inference_mode():
        for at in range(0, len(stream.ids), SAMPLE):
            inputs = {name: torch.from_numpy(v) for name, v in single(stream.ids[at]).items()}
            found[str(at)] = module(**inputs)[OUTPUT][0].numpy()
    torch.set_num_threads(before)
    return found


def build_program(folder: Path) -> Path | str:
    """The C++ program, compiled against the isthmus that is installed; or why it is not there."""
    program = folder / "isthmus-peers-stream"
    library = install_paths.lib_dir() / "libisthmus.so"
    newest = max(SOURCE.stat().st_mtime, library.stat().st_mtime)
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return "no C++ compiler: install g++, or name one in CXX"
    print(f"compiling {program}", file=sys.stderr)
    done = subprocess.run(
        [
            compiler, "-std=c++20", "-O2", f"-I{install_paths.include_dir()}", str(SOURCE),
            f"-L{install_paths.lib_dir()}", "-listhmus",
            f"-Wl,-rpath,{install_paths.lib_dir()}", "-pthread",
            "-o", str(program),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise EngineUnavailable(f"{SOURCE.name} does not compile: {done.stderr}")
    return program


def _native(program: Path | str, request: Request) -> list[str]:
    """See stream.cpp."""
    return [
        str(program), request.bundle, request.inputs, request.contender.engine,
        str(threads_of(request)),
        str(request.workers), str(request.batch), str(request.padding), str(SAMPLE),
        request.contender.option,
    ]  # fmt: skip
