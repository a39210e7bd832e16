"""Runs one contender in a process of its own: `python -m gpu.worker REQUEST.json`.

Speaks the protocol of `isthmus-run bench --worker`, and one line more: "answer FILE" saves what a
call gives. The clock stops when the device is done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.worker import peak_rss_bytes

from .contenders import DTYPES, GRAPHS, Request

Values = dict[str, torch.Tensor]
Call = Callable[[], Any]


def _module(request: Request) -> torch.nn.Module:
    from bert import make_model

    dtype = getattr(torch, DTYPES[request.precision])
    return make_model().to(device=request.device, dtype=dtype).requires_grad_(False)


def _eager(request: Request, values: Values) -> Call:
    module = _module(request)
    return lambda: module(**values)["last_hidden_state"]


def _compile(request: Request, values: Values) -> Call:
    module = torch.compile(_module(request), mode=request.contender.option)

    def call() -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        output: torch.Tensor = module(**values)["last_hidden_state"]
        return output

    return call


def _jit(request: Request, values: Values) -> Call:
    module = torch.jit.load(request.file, map_location=request.device)
    given = tuple(values.values())
    return lambda: _first(module(*given))


def _aoti(request: Request, values: Values) -> Call:
    run = torch._inductor.aoti_load_package(request.file)
    given = tuple(values.values())
    return lambda: _first(run(*given))


def _isthmus(request: Request, values: Values) -> Call:
    import isthmus

    model = isthmus.load(
        request.bundle,
        engine=request.contender.option,
        device=request.device,
        trust="native",
        engine_options=GRAPHS if request.contender.graphs else {},
    )
    return lambda: _first(model(**values))


def _first(outputs: Any) -> torch.Tensor:
    while not isinstance(outputs, torch.Tensor):
        outputs = next(iter(outputs.values())) if hasattr(outputs, "values") else outputs[0]
    return outputs


CALLS: dict[str, Callable[[Request, Values], Call]] = {
    "eager": _eager,
    "compile": _compile,
    "jit": _jit,
    "aoti": _aoti,
    "isthmus": _isthmus,
}


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _serve(request: Request) -> None:
    torch.set_num_threads(request.threads)
    start = time.perf_counter()
    with np.load(request.inputs) as file:
        values = {name: torch.from_numpy(file[name]).to(request.device) for name in file.files}
    on_gpu = request.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    with torch.inference_mode():
        call = CALLS[request.contender.kind](request, values)
        wait()
        loaded = time.perf_counter()

        def timed(count: int) -> list[float]:
            samples = []
            for _ in range(count):
                begun = time.perf_counter_ns()
                result = call()
                wait()
                samples.append((time.perf_counter_ns() - begun) / 1e6)
                del result  # outside the clock, as in the C++ workers
            return samples

        first = timed(1)[0]
        _say(
            "ready",
            load_ms=(loaded - start) * 1e3,
            first_call_ms=first,
            runtime=f"torch {torch.__version__}",
        )
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            if word == "quit":
                break
            if word == "run" and rest.isdigit():
                _say("samples", samples_ms=timed(int(rest)))
            elif word == "answer":
                np.save(rest, call().float().cpu().numpy())
                _say("answered")
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
