"""Runs one contender in a process of its own: `python -m peers.worker REQUEST.json`.

Speaks the protocol of `isthmus-run bench --worker`, and one line more: "answer FILE" saves what the
last call gave. Of a stream, a call is the whole stream.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .kinds import Request


def peak_rss_bytes() -> int:
    """Largest resident memory of this process, and not of what started it."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _time(call: Callable[[], object], count: int) -> list[float]:
    """Durations of single calls, milliseconds."""
    samples = []
    for _ in range(count):
        start = time.perf_counter_ns()
        result = call()
        samples.append((time.perf_counter_ns() - start) / 1e6)
        del result  # outside the clock, as in the C++ worker
    return samples


Answer = Callable[[str], dict[str, int]]
"""Saves what a call gives, and tells what there is to tell of it."""


def _single(request: Request) -> tuple[str, Callable[[], object], Answer]:
    from .calls import load

    loaded = load(request)
    with np.load(request.inputs) as file:
        values = {name: file[name] for name in file.files}
    call = loaded.bind(values)

    def answer(path: str) -> dict[str, int]:
        np.save(path, loaded.array(call()))
        return {}

    return loaded.runtime, call, answer


def _stream(request: Request) -> tuple[str, Callable[[], object], Answer]:
    from .stream_calls import load_stream, sample

    stream = load_stream(request)

    def answer(path: str) -> dict[str, int]:
        np.savez(path, **{str(at): one for at, one in sample(stream.call()).items()})
        return {"elements": stream.elements()}

    return stream.runtime, stream.call, answer


def _serve(request: Request) -> None:
    start = time.perf_counter()
    runtime, call, answer = _stream(request) if request.order else _single(request)
    loaded = time.perf_counter()
    first = _time(call, 1)[0] if not request.order else 0.0
    _say("ready", load_ms=(loaded - start) * 1e3, first_call_ms=first, runtime=runtime)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "quit":
            break
        if word == "run" and rest.isdigit():
            _say("samples", samples_ms=_time(call, int(rest)))
        elif word == "answer":
            _say("answered", **answer(rest))
        else:
            _say("error", message=f"expected 'run N', 'answer FILE' or 'quit', got {line!r}")
    _say("done", peak_rss_bytes=peak_rss_bytes())


def main() -> int:
    """Reads the request that the command line names, and serves until the input ends."""
    try:
        _serve(Request.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except Exception as error:  # becomes the row's reason
        _say("error", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
