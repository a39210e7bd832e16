"""The first calls after a load, as multiples of the median call, on every engine.

MiniLM, batch 1 x 14 tokens. isthmus warms up while it loads; bare torch.jit pays in the first
calls. A fresh process for every sample, in random order.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shared import Result, minilm_bundle, run, turns

from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.runners import EngineSpec
from isthmus.runtime.workers import LineWorker, available_cores, python_worker

CLAIM = 1.2
CLAIM_NEXT = 1.1
"""Of the mean of the second to the tenth call."""
CALLS = 60
ENGINES = {"torchscript": "torchscript", "onnxruntime": "onnx", "openvino": "onnx", "aoti": "aoti"}
"""With the format that each runs."""


def one_process(command: list[str], threads: int) -> tuple[float, float, float, float]:
    """Load, first call, mean of the next nine, and median of warm ones, milliseconds."""
    worker = LineWorker(command, threads=threads)
    try:
        ready = worker.receive(120)
        worker.send(f"run {CALLS}")
        samples = worker.receive(120)["samples_ms"]
        worker.send("quit")
        worker.receive(30)
    finally:
        worker.close()
    # The last half: bare torch.jit is not warm before.
    median = statistics.median(samples[CALLS // 2 :])
    following = statistics.mean(samples[:9])
    return float(ready["load_ms"]), float(ready["first_call_ms"]), following, median


def golden_of(bundle: Bundle, tokens: int = 14) -> str:
    """The golden of batch 1 that is nearest to the wanted length."""
    single = [golden for golden in bundle.manifest.goldens if golden.dims.get("batch", 1) == 1]
    nearest = min(single, key=lambda one: abs(one.dims.get("sequence", tokens) - tokens))
    return nearest.name


def measure(options: argparse.Namespace) -> Result:
    """Starts every contender once a round."""
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
        for engine, format in ENGINES.items():
            if format not in artifacts:
                continue
            commands[f"isthmus in C++, {engine}"] = [
                str(install_paths.binary()), "bench", str(bundle.path), "--worker",
                "--golden", golden, "--artifact", artifacts[format], "--engine", engine,
                "--threads", str(threads),
                "--allow-native",
            ]  # fmt: skip
        samples: dict[str, list[tuple[float, float, float, float]]] = {
            name: [] for name in commands
        }
        for _, name in turns(commands, options.rounds):
            samples[name].append(one_process(commands[name], threads))
    rows = []
    for name, found in samples.items():
        loads, firsts, nexts, medians = zip(*found, strict=True)
        rows.append(
            {
                "loaded by": name,
                "load ms": statistics.median(loads),
                "first call ms": statistics.median(firsts),
                "median call ms": statistics.median(medians),
                "first / median": _median_ratio(firsts, medians),
                "2nd to 10th / median": _median_ratio(nexts, medians),
                "samples_ms": found,
            }
        )
    ours = [row for row in rows if "C++" in str(row["loaded by"])]
    first = max(float(row["first / median"]) for row in ours)  # type: ignore[arg-type]
    following = max(float(row["2nd to 10th / median"]) for row in ours)  # type: ignore[arg-type]
    return Result(
        name="first_call",
        columns=(
            "loaded by",
            "load ms",
            "first call ms",
            "median call ms",
            "first / median",
            "2nd to 10th / median",
        ),
        rows=tuple(rows),
        claim=f"on the slowest engine the first call takes {first:.2f} times the median (wanted at"
        f" most {CLAIM:g}), the next nine {following:.2f} (wanted at most {CLAIM_NEXT:g})",
        passed=first <= CLAIM and following <= CLAIM_NEXT,
        facts={"model": f"all-MiniLM-L6-v2, golden {golden}", "threads": str(threads)},
    )


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
