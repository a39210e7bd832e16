"""The processes of the contenders: they start in sequence, take turns, and end."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from isthmus.errors import Error
from isthmus.runtime import install_paths
from isthmus.runtime.workers import LineWorker, python_worker
from isthmus.timing.statistics import summarize

from .kinds import Contender, Request

T = TypeVar("T")
LEAST_MEMORY_MB = 3000
"""The memory that has to be left to start another process, because all are alive at once."""
BARE_MB = 350
"""The memory of a process without a model: an interpreter and its libraries."""
TIMEOUT = 1200.0
"""The seconds that a process may be silent, since torch.compile takes minutes."""


@dataclass
class Runner:
    """A contender with its process, while it is measured."""

    contender: Contender
    worker: LineWorker | None = None
    reason: str = ""
    """The reason why there are no numbers."""
    runtime: str = ""
    start_ms: float = 0.0
    """The time from the start of the process to the first answer."""
    load_ms: float = 0.0
    first_call_ms: float = 0.0
    accuracy: str = ""
    """The distance of its answers from eager's."""
    elements: int = 0
    """The tokens computed in a stream, with padding."""
    calls: int = 0
    """The calls in a turn."""
    turns: list[tuple[float, ...]] = field(default_factory=list)
    peak_rss_bytes: int = 0

    def fail(self, reason: str) -> None:
        """Ends the process and notes the reason."""
        self.reason = " ".join(reason.split())
        self.turns.clear()
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def ask(self, line: str) -> dict[str, object]:
        """Sends a line and returns the reply; a failure ends the runner, and the reply is empty."""
        if self.worker is None:
            return {}
        self.worker.send(line)
        try:
            return self.worker.receive(TIMEOUT)
        except Error as error:
            self.fail(str(error))
            return {}


def command_of(request: Request, folder: Path) -> list[str]:
    """Returns the command that serves the request: a Python worker or `isthmus-run bench`."""
    if request.contender.language == "C++":
        return [*native_command("bench", request), "--worker"]
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=folder, delete=False) as file:
        json.dump(request.to_json(), file)
    return python_worker("peers.worker", file.name)


def native_command(command: str, request: Request) -> list[str]:
    """Returns `isthmus-run COMMAND` on the request's inputs."""
    return [
        str(install_paths.binary()), command, request.bundle,
        "--engine", request.contender.engine,
        *(["--artifact", request.contender.option] if request.contender.option else []),
        "--inputs", request.inputs,
        "--threads", str(request.threads),
        "--trust", "native",
        *([] if request.warmup else ["--no-warmup"]),
    ]  # fmt: skip


def start(runner: Runner, command: Sequence[str], threads: int) -> None:
    """Starts the process and waits for its first answer."""
    left = available_memory_mb()
    if left < LEAST_MEMORY_MB:
        runner.fail(f"not started: {left:.0f} MB of memory are left; measure fewer, with --only")
        return
    began = time.perf_counter()
    try:
        runner.worker = LineWorker(command, threads=threads)
        ready = runner.worker.receive(TIMEOUT)
    except Error as error:
        runner.fail(str(error))
        return
    runner.start_ms = (time.perf_counter() - began) * 1e3
    runner.load_ms = float(ready["load_ms"])
    runner.first_call_ms = float(ready["first_call_ms"])
    runner.runtime = str(ready["runtime"])
    if "artifact" in ready:
        runner.runtime = f"{ready['artifact']} on {runner.runtime}"


def heats(contenders: Sequence[T], weights_mb: float, auto: Callable[[T], bool]) -> list[list[T]]:
    """Splits the contenders into groups that fit into memory together; `auto` is in each.

    Two that follow each other, an engine in Python and in C++, stay together.

    Args:
        contenders: All contenders.
        weights_mb: The size of the weights, which a process holds twice, as read and as packed.
        auto: Returns True for the contender that all are compared with.
    """
    room = int((available_memory_mb() - LEAST_MEMORY_MB) / (BARE_MB + 2 * weights_mb))
    anchors = [contender for contender in contenders if auto(contender)]
    others = [contender for contender in contenders if not auto(contender)]
    size = max(2, (room - len(anchors)) // 2 * 2)
    parts = [others[at : at + size] for at in range(0, len(others), size)]
    return [[*anchors, *part] for part in parts or [[]]]


def mixed(members: Sequence[T], seed: str) -> list[T]:
    """Shuffles the members, because the place in the starting order matters: `auto`, when it always
    started first, took 6 to 8 % longer than the same engine by name on BERT-base at 1 x 14."""
    order = list(members)
    random.Random(seed).shuffle(order)
    return order


@contextmanager
def ending(runners: Sequence[Runner]) -> Iterator[None]:
    """Closes all runners at exit."""
    try:
        yield
    finally:
        for runner in runners:
            runner.close()


def available_memory_mb() -> float:
    """Returns the memory that the system can give without swapping."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("inf")


def run(runner: Runner, calls: int) -> list[float]:
    """Returns the durations of the calls in milliseconds; empty after a failure."""
    answer = runner.ask(f"run {calls}")
    samples = answer.get("samples_ms", [])
    assert isinstance(samples, list)
    return [float(sample) for sample in samples]


def warm_up(
    runners: Sequence[Runner], turn_seconds: float, least: int, say: Callable[[str], None]
) -> None:
    """Calls each runner until it is steady, then sets its calls per turn."""
    for runner in runners:
        if runner.worker is None:
            continue
        say(f"warming up {runner.contender.label}")
        previous, count = float("inf"), 2
        for _ in range(8):
            samples = run(runner, count)
            if not samples:
                break
            median = summarize(samples).median_ms
            steady = median > 0.9 * previous
            previous = median
            if steady:
                break
            count = max(2, min(10, int(turn_seconds * 1e3 / max(median, 1e-3))))
        runner.calls = max(least, min(1000, int(turn_seconds * 1e3 / max(previous, 1e-3))))


def take_turns(
    runners: Sequence[Runner], rounds: int, discarded: int, say: Callable[[str], None]
) -> None:
    """Times each runner once a round in random order, without the first `discarded` calls."""
    order = random.Random(0)
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        alive = [runner for runner in runners if runner.worker is not None]
        order.shuffle(alive)
        for runner in alive:
            samples = run(runner, runner.calls + discarded)
            if samples:
                runner.turns.append(tuple(samples[discarded:]))


def quit_all(runners: Sequence[Runner]) -> None:
    """Asks each runner for its peak memory and ends it."""
    for runner in runners:
        if runner.worker is not None:
            runner.peak_rss_bytes = int(str(runner.ask("quit").get("peak_rss_bytes", 0)))
            runner.close()
