"""Resident memory over 50,000 calls of random shapes, for each engine, in a process of its own.

A small BERT: batches 1 to 4, sequences 1 to 64, two callers; then MiniLM with fewer calls. What a
runtime keeps for a shape that it has seen is no leak, so the first quarter of the calls is not
judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from shared import Result, minilm_bundle, run
from soak_worker import growth

import isthmus
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.errors import ExecutionError
from isthmus.exporters.formats import FORMATS
from isthmus.runtime.workers import explain_exit, run_command

ENGINES = ("torchscript", "onnxruntime", "openvino", "aoti")
COLUMNS = (
    "model, engine", "calls", "shapes", "loaded MB", "second quarter MB", "last quarter MB",
    "growth MB",
)  # fmt: skip
BYTES_PER_CALL = 160
"""Growth that is noise, over at least 25,000 calls: 4 MB. The allocator's own movements are one or
two; a leak of each call's outputs would be 70 times as much, of its smallest object about as much.
"""


def tiny_bert() -> Any:
    """A BERT of two layers with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    return BertModel(config).eval()


def tiny_bundle(folder: Path) -> Bundle:
    """The small model's bundle in `folder`, in every format."""
    import torch

    path = folder / "tiny-bert"
    if path.exists():
        bundle = open_bundle(path)
        if bundle.manifest.producer.get("torch") == torch.__version__:
            return bundle
    ids = torch.arange(1, 25).reshape(2, 12)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    print(f"exporting a small BERT to {path}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    return isthmus.export(
        tiny_bert(),
        kwargs=example,
        path=path,
        formats=FORMATS,
        dynamic={name: {0: "batch", 1: "sequence"} for name in example},
        dims={"batch": (1, 16), "sequence": (1, 64)},
        overwrite=True,
    )


def ask(bundle: Path, engine: str, *arguments: str) -> dict[str, Any]:
    """What a process of its own found, see soak_worker.py."""
    worker = Path(__file__).with_name("soak_worker.py")
    command = [sys.executable, str(worker), str(bundle), engine, *arguments]
    done = run_command(command, threads=1, timeout=3600)
    if done.returncode != 0:
        raise ExecutionError(explain_exit(done.returncode, done.stderr))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> Result:
    """Engine by engine: memory is the process's own, and nothing is timed."""
    models = [("small BERT", tiny_bundle(options.folder), options.calls, 4, 64)]
    if options.minilm_calls:
        models.append(("MiniLM", minilm_bundle(options.folder), options.minilm_calls, 2, 32))
    rows: list[dict[str, Any]] = []
    for name, bundle, calls, batch, sequence in models:
        formats = {artifact.format for artifact in bundle.manifest.artifacts}
        for engine in ENGINES:
            if ("onnx" if engine in ("onnxruntime", "openvino") else engine) not in formats:
                continue
            print(f"{name}, {engine}: {calls} calls", file=sys.stderr)
            found = ask(
                bundle.path.resolve(), engine, f"--calls={calls}", f"--batch={batch}",
                f"--sequence={sequence}",
            )  # fmt: skip
            readings = found["resident_bytes"]
            early, late, grown = growth(readings)
            allowed = BYTES_PER_CALL * max(found["calls"], 50_000) / 2
            rows.append(
                {
                    "model, engine": f"{name}, {engine}",
                    "calls": found["calls"],
                    "shapes": batch * sequence,
                    "loaded MB": readings[0] / 1e6,
                    "second quarter MB": early / 1e6,
                    "last quarter MB": late / 1e6,
                    "growth MB": grown / 1e6,
                    "allowed MB": allowed / 1e6,
                    "passed": grown <= allowed,
                    "resident_bytes": readings,
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
