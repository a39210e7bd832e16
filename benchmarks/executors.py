"""LibTorch's options, on and off, without warm-up: load, first call and median call.

Executors, fusion, rewrites at load, threads, huge pages, allocator, and how threads wait. MiniLM,
1 x 14 tokens, isthmus-run; each sample comes from a fresh process, in random order.
"""

from __future__ import annotations

import argparse
import sys

from first_call import golden_of, native_worker, sample_processes, timing_columns
from shared import Result, interval_text, minilm_bundle, ratio, run

from isthmus.runtime.workers import available_cores

DEFAULT = "default"
SETTINGS = {
    DEFAULT: [],
    "executor=none": ["--engine-option", "executor=none"],
    "executor=profiling": ["--engine-option", "executor=profiling"],
    "executor=simple": ["--engine-option", "executor=simple"],
    "executor=legacy": ["--engine-option", "executor=legacy"],
    "fusion=on": ["--engine-option", "fusion=on"],
    "fusion=off": ["--engine-option", "fusion=off"],
    "optimize=freeze": ["--optimize", "freeze"],
    "optimize=inference": ["--optimize", "inference"],
    "threads=1": ["--threads", "1"],
    "weights copied": ["--no-mmap"],
}
"""Maps the name of a setting to options of isthmus-run."""
VARIABLES = {
    "no huge pages": "THP_MEM_ALLOC_ENABLE=0",
    "huge pages, malloc": "GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
    "malloc keeps memory": "GLIBC_TUNABLES=glibc.malloc.trim_threshold=1073741824"
    ":glibc.malloc.mmap_threshold=1073741824",
    "threads wait asleep": "OMP_WAIT_POLICY=passive",
}
"""Maps the name of a setting to an environment variable of LibTorch, glibc or OpenMP."""


def measure(options: argparse.Namespace) -> Result:
    """Starts every setting once a round."""
    bundle = minilm_bundle(options.folder)
    threads, golden = available_cores(), golden_of(bundle)
    base = native_worker(bundle, "torchscript", golden, "--no-warmup")
    all_threads = ["--threads", str(threads)]
    commands = {
        name: [*base, *([] if "--threads" in extra else all_threads), *extra]
        for name, extra in SETTINGS.items()
    } | {name: ["env", variable, *base, *all_threads] for name, variable in VARIABLES.items()}
    samples = sample_processes(commands, options.rounds, threads)
    usual = [median for *_, median in samples[DEFAULT]]
    ratios = {
        name: ratio([median for *_, median in timings], usual) for name, timings in samples.items()
    }
    fastest = min((name for name in ratios if name != DEFAULT), key=lambda name: ratios[name].ratio)
    return Result(
        name="executors",
        columns=("setting", "load ms", "first call ms", "median call ms", "of default"),
        rows=tuple(
            {
                "setting": name,
                **timing_columns(timings),
                "of default": interval_text(ratios[name]),
            }
            for name, timings in samples.items()
        ),
        claim=f"{fastest} takes {interval_text(ratios[fastest])} of the default's median call",
        passed=True,
        judged=False,
        facts={"model": f"all-MiniLM-L6-v2, golden {golden}", "threads": str(threads)},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
