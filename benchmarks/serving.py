"""The worker's side of the protocol of `isthmus-run bench --worker`, with the line "answer FILE".

Imports only the standard library, so that start time and memory are those of the contender.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Answer = Callable[[str], Mapping[str, Any]]
"""Saves the answer of a call to a file and returns facts about it."""


def peak_rss_bytes() -> int:
    """Returns the peak resident memory of this process, without that of its parent."""
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
    """Announces that the worker is ready and serves until the input ends.

    Args:
        call: The timed call.
        answer: Gets the file of "answer FILE".
        load_ms: The duration of the load in milliseconds.
        runtime: The runtime that executes the call.
        wait: Waits for asynchronous work, inside the timing.
        first_call: Whether to make a first call and to report its duration.
    """

    def timed(count: int) -> list[float]:
        samples = []
        for _ in range(count):
            start = time.perf_counter_ns()
            result = call()
            wait()
            samples.append((time.perf_counter_ns() - start) / 1e6)
            del result  # outside the timing, as in the C++ worker
        return samples

    first = timed(1)[0] if first_call else 0.0
    _send("ready", load_ms=load_ms, first_call_ms=first, runtime=runtime)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "quit":
            break
        if word == "run" and rest.isdigit():
            _send("samples", samples_ms=timed(int(rest)))
        elif word == "answer":
            _send("answered", **answer(rest))
        else:
            _send("error", message=f"expected 'run N', 'answer FILE' or 'quit', got {line!r}")
    _send("done", peak_rss_bytes=peak_rss_bytes())


def serve_request(serve_it: Callable[[dict[str, Any]], None]) -> int:
    """Serves the request that the command line names; an error becomes the row's reason."""
    try:
        serve_it(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:
        _send("error", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _send(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)
