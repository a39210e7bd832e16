"""1 to 16 threads that call one model at once, MiniLM, 1 x 14 and 1 x 128 tokens, for each engine.

Directly, and with 16 callers through a Batcher; each row is a process of isthmus-run, in turns.
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
from shared import Result, minilm_bundle, run, sentence_inputs, turns

from isthmus.bundle.bundle import Bundle
from isthmus.errors import ExecutionError
from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores, explain_exit, run_command

ENGINES = {
    "torchscript": "torchscript",
    "onnxruntime": "onnx",
    "openvino": "onnx",
    "aoti": "aoti",
}
"""And the format that each runs."""
CALLERS = (1, 2, 4, 8, 16)
MOST = CALLERS[-1]
BATCHED = f"{MOST}, batched"
TOKENS = (14, 128)
CLAIM = 0.95

COLUMNS = (
    "engine, tokens, callers", "calls/s", "of the best", "p50 ms", "p99 ms", "p99 bound ms",
    "peak MB", "threads",
)  # fmt: skip


def one_process(command: list[str], threads: int) -> dict[str, Any]:
    """What `isthmus-run bench --callers` says."""
    done = run_command(command, threads=threads)
    if done.returncode != 0:
        raise ExecutionError(explain_exit(done.returncode, done.stderr))
    row: dict[str, Any] = json.loads(done.stdout)["rows"][0]
    return row


def bound_ms(row: dict[str, Any], workers: int) -> float:
    """The longest that a request may take: the calls ahead of its own, and its own."""
    return float(((MOST - 1) // workers + 2) * row["longest_call_ms"])


def commands_of(
    bundle: Bundle, engine: str, inputs: Path, options: argparse.Namespace, workers: int
) -> dict[str, list[str]]:
    """By number of callers."""
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
    engine: str, tokens: int, found: dict[str, list[dict[str, Any]]], workers: int
) -> list[dict[str, Any]]:
    """A row for each number of callers: medians of the rounds."""

    def median(name: str, key: str) -> float:
        return float(statistics.median(row[key] for row in found[name]))

    direct = [str(count) for count in CALLERS]
    best = max(median(name, "calls_per_second") for name in direct)
    rows = []
    for name in [*direct, BATCHED]:
        samples = [one for row in found[name] for one in row.pop("samples_ms")]
        bound = (
            statistics.median(bound_ms(row, workers) for row in found[name])
            if name == BATCHED
            else None
        )
        rows.append(
            {
                "engine, tokens, callers": f"{engine}, 1 x {tokens}, {name}",
                "engine": engine,
                "tokens": tokens,
                "callers": name,
                "calls/s": median(name, "calls_per_second"),
                "of the best": median(name, "calls_per_second") / best,
                "p50 ms": median(name, "median_ms"),
                "p99 ms": float(np.percentile(samples, 99)),
                "p99 bound ms": bound if bound is not None else "",
                "peak MB": median(name, "peak_rss_bytes") / 1e6,
                "threads": max(row["process_threads"] for row in found[name]),
                "rounds": found[name],
            }
        )
    return rows


def misses(rows: list[dict[str, Any]], weights_mb: float) -> list[str]:
    """What was promised of 16 callers and does not hold, a phrase each."""
    found = []
    alone: dict[tuple[str, int], float] = {}
    for row in rows:
        key, name = (row["engine"], row["tokens"]), row["engine, tokens, callers"]
        if row["callers"] == "1":
            alone[key] = row["peak MB"]
        if row["callers"] == str(MOST) and row["of the best"] < CLAIM:
            found.append(f"{name}: {row['of the best']:.2f} of the best throughput")
        if row["callers"] == BATCHED and row["p99 ms"] > row["p99 bound ms"]:
            found.append(f"{name}: p99 beyond its bound")
        if row["callers"] == str(MOST) and row["peak MB"] - alone[key] > weights_mb / 2:
            found.append(f"{name}: {row['peak MB'] - alone[key]:.0f} MB more than one caller")
    return found


def measure(options: argparse.Namespace) -> Result:
    """Every engine and length; within one, every number of callers once a round."""
    bundle = minilm_bundle(options.folder)
    made = {artifact.format: artifact for artifact in bundle.manifest.artifacts}
    workers = max(1, available_cores() // options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="isthmus-callers-") as folder:
        for tokens in TOKENS:
            inputs = Path(folder) / f"{tokens}.npz"
            np.savez(inputs, **{name: v.numpy() for name, v in sentence_inputs(tokens).items()})
            for engine in options.engines:
                if ENGINES[engine] not in made:
                    continue
                commands = commands_of(bundle, engine, inputs, options, workers)
                found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
                for _, name in turns(commands, options.rounds):
                    found[name].append(one_process(commands[name], options.threads))
                rows += rows_of(engine, tokens, found, workers)
                print(f"{engine}, 1 x {tokens}: done", file=sys.stderr)
    weights_mb = sum(file.size for file in made["onnx"].files) / 1e6
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
    parser.add_argument("--threads", type=int, default=1, help="of one call")
    parser.add_argument("--seconds", type=float, default=4, help="of one process, counted")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=tuple(ENGINES))


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
