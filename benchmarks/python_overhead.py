"""A Python call through isthmus against the same torch.jit module called from Python.

Linear(4, 4), where the call is all overhead; both take turns in random order in one process.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable

import torch
from shared import Result, interval_text, medians, ratio, run, turns
from torch import nn

import isthmus

CALLS = 2000
CLAIM = 1.0


def nanoseconds(call: Callable[[], object]) -> float:
    """Returns the mean duration of a call over a turn."""
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - start) / CALLS


def measure(options: argparse.Namespace) -> Result:
    """Calls the same archive with the same input and one thread, both ways."""
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
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for turn, name in turns(contenders, options.rounds * 5 + 3):
            duration = nanoseconds(contenders[name])
            if turn >= 3:  # the first turns warm up
                samples[name].append(duration)
    ratios = {name: ratio(samples[name], samples["torch.jit"]) for name in contenders}
    ours = ratios["isthmus"]
    return Result(
        name="python_overhead",
        columns=("call from Python", "median ns", "min ns", "of torch.jit"),
        rows=tuple(
            {
                "call from Python": name,
                **medians({"median ns": samples[name]}),
                "min ns": min(samples[name]),
                "of torch.jit": interval_text(ratios[name]),
            }
            for name in contenders
        ),
        claim=f"a call through isthmus takes {ours.ratio:.2f} of the time of torch.jit,"
        f" wanted at most {CLAIM:g}",
        # The interval decides: a tie is not a miss.
        passed=ours.low <= CLAIM,
        facts={"model": "Linear(4, 4), float32[2, 4]", "threads": "1"},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
