"""1 to 16 threads that call one model at once, MiniLM, 1 x 14 and 1 x 128 tokens, on each engine.

The threads call directly, and 16 of them through a Batcher. Each row is a process of isthmus-run;
the processes take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from shared import (
    FORMAT_OF_ENGINE,
    Result,
    medians,
    minilm_bundle,
    output_of,
    run,
    sentence_inputs,
    turns,
)

from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores

CALLERS = (1, 2, 4, 8, 16)
MOST = CALLERS[-1]
BATCHED = f"{MOST}, batched"
TOKENS = (14, 128)
CLAIM = 0.95

COLUMNS = (
    "engine, tokens, callers", "calls/s", "of the best", "p50 ms", "p99 ms", "p99 bound ms",
    "peak MB", "threads",
)  # fmt: skip


def measure_process(command: list[str], threads: int) -> dict[str, Any]:
    """Returns the row that `isthmus-run bench --callers` prints."""
    row: dict[str, Any] = json.loads(output_of(command, threads))["rows"][0]
    return row


def bound_ms(row: dict[str, Any], workers: int) -> float:
    """Returns the longest time of a request in the Batcher: the calls ahead of it and its own."""
    return float(((MOST - 1) // workers + 2) * row["longest_call_ms"])


def commands_of(
    bundle: Bundle, engine: str, inputs: Path, options: argparse.Namespace, workers: int
) -> dict[str, list[str]]:
    """Returns the commands by number of callers."""
    base = [
        str(install_paths.binary()), "bench", str(bundle.path.resolve()), "--json",
        "--allow-native", "--engine", engine, "--threads", str(options.threads),
        "--inputs", str(inputs),
        "--min-seconds", str(options.seconds),
    ]  # fmt: skip
    commands = {str(count): [*base, "--callers", str(count)] for count in CALLERS}
    commands[BATCHED] = [*commands[str(MOST)], "--batch", "--workers", str(workers)]
    return commands


def rows_of(
    engine: str, tokens: int, reports: dict[str, list[dict[str, Any]]], workers: int
) -> list[dict[str, Any]]:
    """Returns a row of medians over the rounds for each number of callers."""
    direct = [str(count) for count in CALLERS]
    columns = {
        name: medians(
            {
                "calls/s": [report["calls_per_second"] for report in reports[name]],
                "p50 ms": [report["median_ms"] for report in reports[name]],
                "peak MB": [report["peak_rss_bytes"] / 1e6 for report in reports[name]],
            }
        )
        for name in [*direct, BATCHED]
    }
    best = max(columns[name]["calls/s"] for name in direct)
    rows = []
    for name, timings in columns.items():
        latencies = [sample for report in reports[name] for sample in report["samples_ms"]]
        rows.append(
            {
                "engine, tokens, callers": f"{engine}, 1 x {tokens}, {name}",
                "engine": engine,
                "tokens": tokens,
                "callers": name,
                **timings,
                "of the best": timings["calls/s"] / best,
                "p99 ms": float(np.percentile(latencies, 99)),
                "p99 bound ms": statistics.median(
                    bound_ms(report, workers) for report in reports[name]
                )
                if name == BATCHED
                else "",
                "threads": max(report["process_threads"] for report in reports[name]),
                "calls": len(latencies),
                "samples": {**timings["samples"], "call ms": latencies},
            }
        )
    return rows


def misses(rows: list[dict[str, Any]], weights_mb: float) -> list[str]:
    """Returns a phrase for each claim about 16 callers that is missed."""
    missed = []
    alone: dict[tuple[str, int], float] = {}
    for row in rows:
        key, name = (row["engine"], row["tokens"]), row["engine, tokens, callers"]
        if row["callers"] == "1":
            alone[key] = row["peak MB"]
        if row["callers"] == str(MOST) and row["of the best"] < CLAIM:
            missed.append(f"{name}: {row['of the best']:.2f} of the best throughput")
        if row["callers"] == BATCHED and row["p99 ms"] > row["p99 bound ms"]:
            missed.append(f"{name}: p99 beyond its bound")
        if row["callers"] == str(MOST) and row["peak MB"] - alone[key] > weights_mb / 2:
            missed.append(f"{name}: {row['peak MB'] - alone[key]:.0f} MB more than one caller")
    return missed


def measure(options: argparse.Namespace) -> Result:
    """Measures every engine and length; each number of callers takes its turn once a round."""
    bundle = minilm_bundle(options.folder)
    artifacts = {artifact.format: artifact for artifact in bundle.manifest.artifacts}
    workers = max(1, available_cores() // options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="isthmus-callers-") as folder:
        for tokens in TOKENS:
            inputs = Path(folder) / f"{tokens}.npz"
            np.savez(inputs, **{name: v.numpy() for name, v in sentence_inputs(tokens).items()})
            for engine in options.engines:
                if FORMAT_OF_ENGINE[engine] not in artifacts:
                    continue
                commands = commands_of(bundle, engine, inputs, options, workers)
                reports: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
                for _, name in turns(commands, options.rounds):
                    reports[name].append(measure_process(commands[name], options.threads))
                rows += rows_of(engine, tokens, reports, workers)
                print(f"{engine}, 1 x {tokens}: done", file=sys.stderr)
    weights_mb = sum(file.size for file in artifacts["onnx"].files) / 1e6
    missed = misses(rows, weights_mb)
    shares = [row for row in rows if row["callers"] == str(MOST)]
    least = min(shares, key=lambda row: row["of the best"])
    return Result(
        name="callers",
        columns=COLUMNS,
        rows=tuple(rows),
        claim=f"{MOST} callers get at least {least['of the best']:.3f} of the best throughput of "
        f"any number of callers ({least['engine']}, 1 x {least['tokens']}), wanted at least "
        f"{CLAIM}; " + ("; ".join(missed) or "one copy of the weights, p99 within its bound"),
        passed=not missed,
        facts={
            "model": f"all-MiniLM-L6-v2, {weights_mb:.0f} MB of weights",
            "threads": f"{options.threads} for each call",
            "batched": f"{workers} workers, max_wait 0",
        },
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(rounds=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of a call")
    parser.add_argument("--seconds", type=float, default=4, help="seconds measured in each process")
    parser.add_argument(
        "--engines", nargs="+", choices=FORMAT_OF_ENGINE, default=tuple(FORMAT_OF_ENGINE)
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
