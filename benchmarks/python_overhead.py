"""A Python call through isthmus against the same torch.jit module called from Python.

Linear(4, 4), where the call is all overhead; one process, the two take turns in random order.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from shared import Result, interval_text, run, turns
from torch import nn

import isthmus
from isthmus.timing.statistics import ratio_over_rounds

CALLS = 2000
CLAIM = 1.0


def nanoseconds(call: Callable[[], object]) -> float:
    """Mean time of one call over a turn."""
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - start) / CALLS


def measure(options: argparse.Namespace) -> Result:
    """The same archive, the same input, one thread."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.manual_seed(0)
    options.folder.mkdir(parents=True, exist_ok=True)
    bundle = isthmus.export(
        nn.Linear(4, 4), (torch.randn(2, 4),), path=options.folder / "linear", overwrite=True
    )
    archive = bundle.path / bundle.manifest.artifacts[0].files[0].path
    bare = torch.jit.load(archive)
    model = isthmus.load(bundle.path, threads=1)
    value = torch.randn(2, 4)

    def call_bare() -> object:
        return bare(value)

    def call_isthmus() -> object:
        return model(value)

    contenders = {"torch.jit": call_bare, "isthmus": call_isthmus}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for turn, name in turns(contenders, options.rounds * 5 + 3):
            taken = nanoseconds(contenders[name])
            if turn >= 3:  # the first turns warm up
                found[name].append(taken)
    ratio = ratio_over_rounds(found["isthmus"], found["torch.jit"], confidence=0.95)
    return Result(
        name="python_overhead",
        columns=("call from Python", "median ns", "min ns", "of torch.jit"),
        rows=tuple(
            {
                "call from Python": name,
                "median ns": statistics.median(samples),
                "min ns": min(samples),
                "of torch.jit": interval_text(
                    ratio_over_rounds(samples, found["torch.jit"], confidence=0.95)
                ),
                "samples_ns": samples,
            }
            for name, samples in found.items()
        ),
        claim=f"a call through isthmus takes {ratio.ratio:.2f} of the time of torch.jit,"
        f" wanted at most {CLAIM:g}",
        # The interval decides: a tie is not a miss.
        passed=ratio.low <= CLAIM,
        facts={"model": "Linear(4, 4), float32[2, 4]", "threads": "1"},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
