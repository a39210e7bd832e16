"""A worker's side of what `isthmus-run bench --worker` speaks, and one line more: "answer FILE".

Imports nothing: what a peer takes to start, and its memory, are the peer's own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Answer = Callable[[str], Mapping[str, Any]]
"""Saves what a call gives, and tells what there is to tell of it."""


def peak_rss_bytes() -> int:
    """Largest resident memory of this process, and not of what started it."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def serve(
    call: Callable[[], object],
    answer: Answer,
    *,
    load_ms: float,
    runtime: str,
    wait: Callable[[], None] = lambda: None,
    first_call: bool = True,
) -> None:
    """Says that it is ready, and serves until the input ends.

    Args:
        call: What is timed.
        answer: Takes the file of "answer FILE".
        load_ms: Of the load, milliseconds.
        runtime: What runs the call.
        wait: Ends asynchronous work; within the clock.
        first_call: Whether to make one, and to say how long it took.
    """

    def timed(count: int) -> list[float]:
        samples = []
        for _ in range(count):
            start = time.perf_counter_ns()
            result = call()
            wait()
            samples.append((time.perf_counter_ns() - start) / 1e6)
            del result  # outside the clock, as in the C++ worker
        return samples

    first = timed(1)[0] if first_call else 0.0
    _say("ready", load_ms=load_ms, first_call_ms=first, runtime=runtime)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "quit":
            break
        if word == "run" and rest.isdigit():
            _say("samples", samples_ms=timed(int(rest)))
        elif word == "answer":
            _say("answered", **answer(rest))
        else:
            _say("error", message=f"expected 'run N', 'answer FILE' or 'quit', got {line!r}")
    _say("done", peak_rss_bytes=peak_rss_bytes())


def serve_request(serve_it: Callable[[dict[str, Any]], None]) -> int:
    """Hands over the request that the command line names; an error becomes the row's reason."""
    try:
        serve_it(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:
        _say("error", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)
