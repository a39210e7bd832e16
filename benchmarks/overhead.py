"""The cost in microseconds that the C++ library adds to a call of the engine's own C++ API.

Exports two small modules; a program for each engine (`overhead/`) calls them in every way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from shared import Result, medians, run
from torch import Tensor, nn

import isthmus
from isthmus.errors import EngineUnavailable

CLAIM_US = {"torchscript": 2.0, "onnxruntime": 3.0, "openvino": 3.0, "aoti": 3.0}
FORMATS = ("torchscript", "onnx", "aoti")
CLAIMED = ("run", "run_ordered")
"""The wrapper of `isthmus/torch.h` is shown only: it converts once more each way."""

Row = dict[str, Any]


class ThreeInputs(nn.Module):
    """A module with MiniLM's signature and next to no work."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Maps three inputs int64[batch, sequence] to two outputs of the same shape.

        No output is an input, which a call would copy.
        """
        return input_ids + attention_mask, token_type_ids + attention_mask


def export_all(folder: Path) -> dict[str, Path]:
    """Returns the bundles by description: one input of a fixed shape, three of named dimensions."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    linear = isthmus.export(
        nn.Linear(4, 4).eval(),
        (torch.randn(2, 4),),
        path=folder / "linear",
        formats=FORMATS,
        overwrite=True,
    )
    ids = torch.ones(2, 14, dtype=torch.int64)
    axes = {0: "batch", 1: "sequence"}
    three = isthmus.export(
        ThreeInputs().eval(),
        (ids, ids, ids),
        path=folder / "three",
        dynamic=dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), axes),
        dims={"batch": (1, 64), "sequence": (1, 512)},
        formats=FORMATS,
        overwrite=True,
    )
    return {"Linear(4, 4)": linear.path, "three inputs, named dimensions": three.path}


def rows_of(engine: str, model: str, program: Path, bundle: Path, turns: int) -> list[Row]:
    """Runs the program once; differences are taken within a turn."""
    output = subprocess.run(
        [program, bundle, str(turns)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    samples: dict[str, list[float]] = json.loads(output)
    bare = next(name for name in samples if name.startswith("bare"))
    rows: list[Row] = []
    for contender in sorted(samples, key=lambda sample: (sample != bare, sample)):
        extra = [
            (mine - theirs) / 1e3
            for mine, theirs in zip(samples[contender], samples[bare], strict=True)
        ]
        timings = medians(
            {"median us": [sample / 1e3 for sample in samples[contender]], "added_us": extra}
        )
        low, high = timings["intervals"]["added_us"]
        added = f"{timings['added_us']:.2f} ({low:.2f} to {high:.2f})"
        rows.append(
            {
                "engine": engine,
                "model": model,
                "call": contender,
                "added us": "-" if contender == bare else added,
                **timings,
            }
        )
    return rows


def measure(options: argparse.Namespace) -> Result:
    """Runs the program of every engine on every bundle."""
    programs = {
        engine: options.programs / f"isthmus-overhead-{engine}"
        for engine in options.engines or CLAIM_US
    }
    for program in programs.values():
        if not program.is_file():
            raise EngineUnavailable(
                f"{program}: no such program; build it with `cmake --preset release"
                " && cmake --build --preset release`, or pass --programs and --engines"
            )
    bundles = export_all(options.folder)
    rows = [
        row
        for engine, program in programs.items()
        for model, bundle in bundles.items()
        for row in rows_of(engine, model, program, bundle, options.rounds * 8)
    ]
    worst = {
        engine: max(
            row["added_us"] for row in rows if row["engine"] == engine and row["call"] in CLAIMED
        )
        for engine in programs
    }
    return Result(
        name="overhead",
        columns=("engine", "model", "call", "median us", "added us"),
        rows=tuple(rows),
        claim="a call through the C++ library adds, where it adds most, "
        + ", ".join(
            f"{added:.2f} us on {engine} (wanted at most {CLAIM_US[engine]:g})"
            for engine, added in worst.items()
        ),
        passed=all(added <= CLAIM_US[engine] for engine, added in worst.items()),
        facts={"threads": "1", "added": "median of differences within a turn, 95% interval"},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of the C++ programs and the engines to run."""
    parser.add_argument("--programs", type=Path, default=Path("build/release/bin"))
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), help=f"default: {','.join(CLAIM_US)}"
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
