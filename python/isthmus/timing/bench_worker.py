"""Times one runner in a process of its own: `python -m isthmus.timing.bench_worker REQUEST`.

Speaks the protocol of `isthmus-run bench --worker`: one JSON line when ready, then for each line
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


def peak_rss_bytes() -> int:
    """Largest resident memory of this process.

    Not `getrusage`: what it gives outlives exec, so that a large parent counts for its children.
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
    """Durations of single calls, milliseconds; `wait` ends asynchronous work."""
    samples = []
    for _ in range(count):
        wait()
        start = time.perf_counter_ns()
        # The result dies outside the clock's reach, as it does in the C++ worker.
        result = call()
        wait()
        samples.append((time.perf_counter_ns() - start) / 1e6)
        del result
    return samples


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _serve(request: dict[str, Any]) -> None:
    from isthmus.bundle.bundle import open_bundle

    spec = EngineSpec.from_json(request["spec"])
    bundle = open_bundle(Path(spec.bundle))
    step = bundle.golden(request["golden"]).steps[0]
    runner, load_ms = load_engine(spec, bundle)

    import torch

    on_gpu = spec.device.partition(":")[0] == "cuda"
    wait: Callable[[], None] = torch.cuda.synchronize if on_gpu else (lambda: None)
    call = runner.bind(step.method, step.inputs)
    first = time_calls(call, 1, wait)[0]
    _say(
        "ready",
        load_ms=load_ms,
        first_call_ms=first,
        threads=torch.get_num_threads(),
        runtime=runner.runtime,
    )
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ["quit"]:
            break
        if len(words) == 2 and words[0] == "run" and words[1].isdigit():
            _say("samples", samples_ms=time_calls(call, int(words[1]), wait))
        elif words:
            _say("error", message=f"expected 'run N' or 'quit', got {line.strip()!r}")
    _say("done", peak_rss_bytes=peak_rss_bytes())


def main() -> int:
    """Reads the request that the command line names, and serves until the input ends."""
    try:
        _serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # becomes the row's reason
        _say("error", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
