"""Times one engine in a process of its own: `python -m isthmus.timing.bench_worker REQUEST`.

It speaks the protocol of `isthmus-run bench --worker`: one JSON line when ready, then for each line
"run N" the durations of N calls in milliseconds, and at "quit" or the end of input the peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.load_engine import load_engine
from isthmus.runtime.worker_main import run_worker


def peak_rss_bytes() -> int:
    """Returns the largest resident memory of this process.

    `getrusage` is the fallback only: its value outlives exec, so that a large parent counts for its
    children.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def time_calls(call: Callable[[], object], count: int, wait: Callable[[], None]) -> list[float]:
    """Returns the durations of single calls in milliseconds; `wait` ends asynchronous work."""
    samples = []
    for _ in range(count):
        wait()
        start = time.perf_counter_ns()
        # The result is freed outside the measured time, as in the C++ worker.
        result = call()
        wait()
        samples.append((time.perf_counter_ns() - start) / 1e6)
        del result
    return samples


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _reply(_: dict[str, Any], answer: dict[str, Any]) -> None:
    if "error" in answer:
        _say("error", message=answer["error"])
    else:
        _say("done", **answer)


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    from isthmus.bundle.bundle import open_bundle

    spec = EngineSpec.from_json(request["spec"])
    bundle = open_bundle(Path(spec.bundle))
    step = bundle.golden(request["golden"]).steps[0]
    engine, load_ms = load_engine(spec, bundle)

    import torch

    on_gpu = spec.device.partition(":")[0] == "cuda"
    wait: Callable[[], None] = torch.cuda.synchronize if on_gpu else (lambda: None)
    call = engine.bind(step.method, step.inputs)
    first = time_calls(call, 1, wait)[0]
    _say(
        "ready",
        load_ms=load_ms,
        first_call_ms=first,
        threads=torch.get_num_threads(),
        runtime=engine.runtime,
    )
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ["quit"]:
            break
        if len(words) == 2 and words[0] == "run" and words[1].isdigit():
            _say("samples", samples_ms=time_calls(call, int(words[1]), wait))
        elif words:
            _say("error", message=f"expected 'run N' or 'quit', got {line.strip()!r}")
    return {"peak_rss_bytes": peak_rss_bytes()}


if __name__ == "__main__":
    run_worker(_serve, _reply)
