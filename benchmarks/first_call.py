"""The first call after a load, as a multiple of the median call.

MiniLM, batch 1 x 14 tokens. isthmus warms up while it loads; bare torch.jit pays in the first
calls. A fresh process for every sample, in random order.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from shared import Result, minilm_bundle, run, turns

from isthmus import native
from isthmus.bundle import Bundle
from isthmus.processes import LineWorker, available_cores, python_worker
from isthmus.runners import RunnerSpec

CLAIM = 1.5
CALLS = 60


def one_process(command: list[str], threads: int) -> tuple[float, float, float]:
    """Load, first call and median of the calls after the warm-up, milliseconds."""
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
    return float(ready["load_ms"]), float(ready["first_call_ms"]), median


def golden_of(bundle: Bundle, tokens: int = 14) -> str:
    """The golden of batch 1 that is nearest to the wanted length."""
    single = [one for one in bundle.manifest.goldens if one.dims.get("batch", 1) == 1]
    nearest = min(single, key=lambda one: abs(one.dims.get("sequence", tokens) - tokens))
    return nearest.name


def measure(options: argparse.Namespace) -> Result:
    """Starts every contender once a round."""
    bundle = minilm_bundle(options.folder)
    artifact = bundle.manifest.artifacts[0].name
    threads, golden = available_cores(), golden_of(bundle)
    with tempfile.TemporaryDirectory() as folder:
        commands = {}
        for name, kind, optimize in (
            ("torch.jit in Python", "torch.jit", "none"),
            ("isthmus in Python", "isthmus", "auto"),
        ):
            spec = RunnerSpec(
                kind=kind, bundle=str(bundle.path.resolve()), artifact=artifact,
                threads=threads, optimize=optimize,
            )  # fmt: skip
            request = Path(folder) / f"{kind}.json"
            request.write_text(json.dumps({"spec": spec.to_json(), "golden": golden}))
            commands[name] = python_worker("isthmus.bench_worker", str(request))
        commands["isthmus in C++"] = [
            str(native.binary()), "bench", str(bundle.path), "--worker",
            "--golden", golden, "--artifact", artifact, "--threads", str(threads),
        ]  # fmt: skip
        samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for _, name in turns(commands, options.rounds):
            samples[name].append(one_process(commands[name], threads))
    rows = []
    for name, found in samples.items():
        loads, firsts, medians = zip(*found, strict=True)
        rows.append(
            {
                "loaded by": name,
                "load ms": statistics.median(loads),
                "first call ms": statistics.median(firsts),
                "median call ms": statistics.median(medians),
                "first / median": statistics.median(first / median for _, first, median in found),
                "samples_ms": found,
            }
        )
    reached = float(rows[-1]["first / median"])
    return Result(
        name="first_call",
        columns=("loaded by", "load ms", "first call ms", "median call ms", "first / median"),
        rows=tuple(rows),
        claim=f"the first call takes {reached:.2f} times the median, wanted at most {CLAIM:g}",
        passed=reached <= CLAIM,
        facts={"model": f"all-MiniLM-L6-v2, golden {golden}", "threads": str(threads)},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
