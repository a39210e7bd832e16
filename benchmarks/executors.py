"""What LibTorch can be told, on and off, without warm-up: load, first call and median call.

Executors, fusion, rewrites at load, threads, huge pages, allocator, how threads wait. MiniLM, batch
1 x 14 tokens, isthmus-run, a fresh process for every sample, in random order.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from first_call import golden_of, one_process
from shared import Result, interval_text, minilm_bundle, run, turns

from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores
from isthmus.timing.statistics import ratio_over_rounds

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
"""Options of isthmus-run."""
VARIABLES = {
    "no huge pages": "THP_MEM_ALLOC_ENABLE=0",
    "huge pages, malloc": "GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
    "malloc keeps memory": "GLIBC_TUNABLES=glibc.malloc.trim_threshold=1073741824"
    ":glibc.malloc.mmap_threshold=1073741824",
    "threads wait asleep": "OMP_WAIT_POLICY=passive",
}
"""Environment variables that LibTorch, glibc and OpenMP read; isthmus-run asks for huge pages."""


def measure(options: argparse.Namespace) -> Result:
    """Starts every setting once a round."""
    bundle = minilm_bundle(options.folder)
    threads, golden = available_cores(), golden_of(bundle)
    base = [
        str(install_paths.binary()), "bench", str(bundle.path), "--worker", "--no-warmup",
        "--golden", golden, "--engine", "torchscript",
    ]  # fmt: skip
    given = ["--threads", str(threads)]
    commands = {
        name: [*base, *([] if "--threads" in extra else given), *extra]
        for name, extra in SETTINGS.items()
    } | {name: ["env", variable, *base, *given] for name, variable in VARIABLES.items()}
    samples: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in commands}
    for _, name in turns(commands, options.rounds):
        samples[name].append(one_process(commands[name], threads))
    rows = []
    usual = [median for *_, median in samples[DEFAULT]]
    for name, found in samples.items():
        loads, firsts, _, medians = zip(*found, strict=True)
        rows.append(
            {
                "setting": name,
                "load ms": statistics.median(loads),
                "first call ms": statistics.median(firsts),
                "median call ms": statistics.median(medians),
                "of default": interval_text(ratio_over_rounds(medians, usual, confidence=0.95)),
                "samples_ms": found,
            }
        )
    fastest = min(rows[1:], key=lambda row: float(str(row["of default"]).partition(" ")[0]))
    return Result(
        name="executors",
        columns=("setting", "load ms", "first call ms", "median call ms", "of default"),
        rows=tuple(rows),
        claim=f"{fastest['setting']} takes {fastest['of default']} of the default's median call",
        passed=True,
        judged=False,
        facts={"model": f"all-MiniLM-L6-v2, golden {golden}", "threads": str(threads)},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
