"""Runs a contender in a process of its own: `python -m peers.worker REQUEST.json`.

Speaks the protocol of `isthmus-run bench --worker` and the line "answer FILE", which saves the
answer of a call. A call on a stream is the whole stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from serving import Answer, serve, serve_request

from .kinds import Request


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
        np.savez(path, **{str(at): answer for at, answer in sample(stream.call()).items()})
        return {"elements": stream.elements()}

    return stream.runtime, stream.call, answer


def _serve(data: dict[str, Any]) -> None:
    request = Request.from_json(data)
    start = time.perf_counter()
    runtime, call, answer = _stream(request) if request.order else _single(request)
    load_ms = (time.perf_counter() - start) * 1e3
    serve(call, answer, load_ms=load_ms, runtime=runtime, first_call=not request.order)


if __name__ == "__main__":
    sys.exit(serve_request(_serve))
