"""Runs a contender in a process of its own: `python -m gpu.worker REQUEST.json`.

Speaks the protocol of `isthmus-run bench --worker` and the line "answer FILE", which saves the
answer of a call. The clock stops when the device is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from serving import serve, serve_request

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
        engine=request.contender.engine,
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


def _serve(data: dict[str, Any]) -> None:
    request = Request.from_json(data)
    torch.set_num_threads(request.threads)
    start = time.perf_counter()
    with np.load(request.inputs) as file:
        values = {name: torch.from_numpy(file[name]).to(request.device) for name in file.files}
    on_gpu = request.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    with torch.inference_mode():
        call = CALLS[request.contender.kind](request, values)
        wait()

        def answer(path: str) -> dict[str, int]:
            np.save(path, call().float().cpu().numpy())
            return {}

        serve(
            call,
            answer,
            load_ms=(time.perf_counter() - start) * 1e3,
            runtime=f"torch {torch.__version__}",
            wait=wait,
        )


if __name__ == "__main__":
    sys.exit(serve_request(_serve))
