"""Resident memory over 50,000 calls of random shapes, for each engine, in a process of its own.

A small BERT: batches 1 to 4, sequences 1 to 64, two callers; then MiniLM with fewer calls. The
first quarter is not judged: runtimes keep buffers for each shape, which is not a leak.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from hf_models import IDS, make
from shared import FORMAT_OF_ENGINE, Result, kept_bundle, minilm_bundle, output_of, run
from soak_worker import growth

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.exporters.options import FORMATS

COLUMNS = (
    "model, engine", "calls", "shapes", "loaded MB", "second quarter MB", "last quarter MB",
    "growth MB",
)  # fmt: skip
BYTES_PER_CALL = 160
"""The growth that counts as noise: 4 MB over 25,000 calls. The allocator itself moves by one or two
MB; a leak of each call's outputs would take 70 times as much, of its smallest object about as much.
"""


def tiny_bundle(folder: Path) -> Bundle:
    """Returns the bundle of a BERT of two layers with random weights, in every format."""
    path = folder / "tiny-bert"
    if bundle := kept_bundle(path):
        return bundle
    ids = torch.arange(1, 25).reshape(2, 12)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    module = make(
        "BertModel", vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    return isthmus.export(
        module,
        kwargs=example,
        path=path,
        formats=FORMATS,
        dynamic=dict.fromkeys(example, IDS),
        dims={"batch": (1, 16), "sequence": (1, 64)},
        overwrite=True,
    )


def ask(bundle: Path, engine: str, *arguments: str) -> dict[str, Any]:
    """Returns the readings of a worker process; see soak_worker.py."""
    worker = Path(__file__).with_name("soak_worker.py")
    command = [sys.executable, str(worker), str(bundle), engine, *arguments]
    readings: dict[str, Any] = json.loads(output_of(command, 1, 3600).splitlines()[-1])
    return readings


def measure(options: argparse.Namespace) -> Result:
    """Reads the memory of a process for each model and engine."""
    models = [("small BERT", tiny_bundle(options.folder), options.calls, 4, 64)]
    if options.minilm_calls:
        models.append(("MiniLM", minilm_bundle(options.folder), options.minilm_calls, 2, 32))
    rows: list[dict[str, Any]] = []
    for name, bundle, calls, batch, sequence in models:
        formats = {artifact.format for artifact in bundle.manifest.artifacts}
        for engine, format in FORMAT_OF_ENGINE.items():
            if format not in formats:
                continue
            print(f"{name}, {engine}: {calls} calls", file=sys.stderr)
            answer = ask(
                bundle.path.resolve(), engine, f"--calls={calls}", f"--batch={batch}",
                f"--sequence={sequence}",
            )  # fmt: skip
            readings = answer["resident_bytes"]
            early, late, grown = growth(readings)
            allowed = BYTES_PER_CALL * max(answer["calls"], 50_000) / 2
            rows.append(
                {
                    "model, engine": f"{name}, {engine}",
                    "calls": answer["calls"],
                    "shapes": batch * sequence,
                    "loaded MB": readings[0] / 1e6,
                    "second quarter MB": early / 1e6,
                    "last quarter MB": late / 1e6,
                    "growth MB": grown / 1e6,
                    "allowed MB": allowed / 1e6,
                    "passed": grown <= allowed,
                    "samples": {"resident_bytes": readings},
                }
            )
    most = max(rows, key=lambda row: row["growth MB"] / row["allowed MB"])
    return Result(
        name="soak",
        columns=COLUMNS,
        rows=tuple(rows),
        claim=f"{most['model, engine']} grew most, by {most['growth MB']:.2f} MB from the second "
        f"to the last quarter, wanted at most {most['allowed MB']:.1f}",
        passed=all(row["passed"] for row in rows),
        facts={"callers": "2", "threads": "1 for each call", "batch, sequence": "1 to 4, 1 to 64"},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=50_000, help="of the small model")
    parser.add_argument("--minilm-calls", type=int, default=4_000, help="of MiniLM; 0: none")


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
