"""The first calls after a load, as multiples of the median call, on every engine.

MiniLM, 1 x 14 tokens. isthmus warms up while it loads; bare torch.jit compiles in its first calls.
Each sample comes from a fresh process; the processes take turns in random order.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import FORMAT_OF_ENGINE, Result, medians, minilm_bundle, run, turns

from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.workers import LineWorker, available_cores, python_worker

CLAIM = 1.2
CLAIM_NEXT = 1.1
"""The claim for the mean of the second to the tenth call."""
CALLS = 60

Sample = tuple[float, float, float, float]
"""Milliseconds of the load, the first call, the mean of the next nine, and the median warm call."""


def measure_process(command: list[str], threads: int) -> Sample:
    """Starts a worker, times its calls and ends it."""
    worker = LineWorker(command, threads=threads)
    try:
        ready = worker.receive(120)
        worker.send(f"run {CALLS}")
        samples = worker.receive(120)["samples_ms"]
        worker.send("quit")
        worker.receive(30)
    finally:
        worker.close()
    # Bare torch.jit is warm only in the second half.
    median = statistics.median(samples[CALLS // 2 :])
    following = statistics.mean(samples[:9])
    return float(ready["load_ms"]), float(ready["first_call_ms"]), following, median


def sample_processes(
    commands: Mapping[str, list[str]], rounds: int, threads: int
) -> dict[str, list[Sample]]:
    """Returns the samples of each command, measured once a round in random order."""
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for index, name in turns(commands, rounds):
        print(f"round {index + 1}: {name}", file=sys.stderr)
        samples[name].append(measure_process(commands[name], threads))
    return samples


def timing_columns(samples: Sequence[Sample]) -> dict[str, Any]:
    """Returns the medians of the four durations as members of a row."""
    columns = ("load ms", "first call ms", "next nine ms", "median call ms")
    return medians(dict(zip(columns, zip(*samples, strict=True), strict=True)))


def golden_of(bundle: Bundle, tokens: int = 14) -> str:
    """Returns the name of the golden of batch 1 whose length is nearest to `tokens`."""
    single = [golden for golden in bundle.manifest.goldens if golden.dims.get("batch", 1) == 1]
    nearest = min(single, key=lambda golden: abs(golden.dims.get("sequence", tokens) - tokens))
    return nearest.name


def native_worker(bundle: Bundle, engine: str, golden: str, *options: str) -> list[str]:
    """Returns the command of an `isthmus-run bench` worker."""
    return [
        str(install_paths.binary()), "bench", str(bundle.path), "--worker", "--allow-native",
        "--golden", golden, "--engine", engine, *options,
    ]  # fmt: skip


def measure(options: argparse.Namespace) -> Result:
    """Times the first calls of torch.jit, of isthmus in Python, and of every engine in C++."""
    bundle = minilm_bundle(options.folder)
    artifacts = {artifact.format: artifact.name for artifact in bundle.manifest.artifacts}
    threads, golden = available_cores(), golden_of(bundle)
    with tempfile.TemporaryDirectory() as folder:
        commands = {}
        for name, kind, optimize in (
            ("torch.jit in Python", "torch.jit", "none"),
            ("isthmus in Python", "isthmus", "auto"),
        ):
            spec = EngineSpec(
                kind=kind, bundle=str(bundle.path.resolve()), artifact=artifacts["torchscript"],
                threads=threads, optimize=optimize,
            )  # fmt: skip
            request = Path(folder) / f"{kind}.json"
            request.write_text(json.dumps({"spec": spec.to_json(), "golden": golden}))
            commands[name] = python_worker("isthmus.timing.bench_worker", str(request))
        for engine, format in FORMAT_OF_ENGINE.items():
            if format in artifacts:
                commands[f"isthmus in C++, {engine}"] = native_worker(
                    bundle, engine, golden, "--artifact", artifacts[format], "--threads",
                    str(threads),
                )  # fmt: skip
        samples = sample_processes(commands, options.rounds, threads)
    rows: list[dict[str, Any]] = [
        {
            "loaded by": name,
            **timing_columns(timings),
            "first / median": statistics.median(first / warm for _, first, _, warm in timings),
            "2nd to 10th / median": statistics.median(
                after / warm for _, _, after, warm in timings
            ),
        }
        for name, timings in samples.items()
    ]
    in_cpp = [row for row in rows if "C++" in row["loaded by"]]
    first = max(row["first / median"] for row in in_cpp)
    following = max(row["2nd to 10th / median"] for row in in_cpp)
    return Result(
        name="first_call",
        columns=(
            "loaded by", "load ms", "first call ms", "median call ms", "first / median",
            "2nd to 10th / median",
        ),
        rows=tuple(rows),
        claim=f"on the slowest engine the first call takes {first:.2f} times the median (wanted at"
        f" most {CLAIM:g}), the next nine {following:.2f} (wanted at most {CLAIM_NEXT:g})",
        passed=first <= CLAIM and following <= CLAIM_NEXT,
        facts={"model": f"all-MiniLM-L6-v2, golden {golden}", "threads": str(threads)},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
