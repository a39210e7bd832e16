"""What a call through the C++ library adds to a bare torch::jit::Module::forward, in microseconds.

Exports two small modules, and has `isthmus-overhead` (overhead.cpp) call each in every way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from shared import Result, run
from torch import Tensor, nn

import isthmus
from isthmus.errors import EngineUnavailable
from isthmus.statistics import median_interval

CLAIM_US = 2.0
BARE = "bare forward"
CLAIMED = ("run", "run_ordered")
"""Not the wrapper of `isthmus/torch.h`, which converts once more each way: it is shown."""


class ThreeInputs(nn.Module):
    """MiniLM's signature, and next to no work."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """int64[batch, sequence] three times, to the same shape twice."""
        return input_ids + attention_mask, token_type_ids


def export_all(folder: Path) -> dict[str, Path]:
    """Bundles by what they are: one input of a fixed shape, three of named dimensions."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    linear = isthmus.export(
        nn.Linear(4, 4).eval(), (torch.randn(2, 4),), path=folder / "linear", overwrite=True
    )
    ids = torch.ones(2, 14, dtype=torch.int64)
    axes = {0: "batch", 1: "sequence"}
    three = isthmus.export(
        ThreeInputs().eval(),
        (ids, ids, ids),
        path=folder / "three",
        dynamic=dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), axes),
        dims={"batch": (1, 64), "sequence": (1, 512)},
        overwrite=True,
    )
    return {"Linear(4, 4)": linear.path, "three inputs, named dimensions": three.path}


def measure(options: argparse.Namespace) -> Result:
    """Each program run once; differences are taken within a turn."""
    if not options.program.is_file():
        raise EngineUnavailable(
            f"{options.program}: no such program; build it with `cmake --preset release"
            " -DISTHMUS_TORCH=ON && cmake --build --preset release`, or pass --program"
        )
    rows = []
    worst = 0.0
    for name, bundle in export_all(options.folder).items():
        output = subprocess.run(
            [options.program, bundle, str(options.rounds * 8)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        turns = json.loads(output)
        for contender in sorted(turns, key=lambda one: (one != BARE, one)):
            extra = [
                (mine - bare) / 1e3
                for mine, bare in zip(turns[contender], turns[BARE], strict=True)
            ]
            low, high = median_interval(extra, 0.95)
            rows.append(
                {
                    "model": name,
                    "call": contender,
                    "median us": statistics.median(turns[contender]) / 1e3,
                    "added us": "-"
                    if contender == BARE
                    else f"{statistics.median(extra):.2f} ({low:.2f} to {high:.2f})",
                    "samples_ns": turns[contender],
                }
            )
            if contender in CLAIMED:
                worst = max(worst, statistics.median(extra))
    return Result(
        name="overhead",
        columns=("model", "call", "median us", "added us"),
        rows=tuple(rows),
        claim=f"a call through the C++ library adds {worst:.2f} us where it adds most,"
        f" wanted at most {CLAIM_US:g}",
        passed=worst <= CLAIM_US,
        facts={"threads": "1", "added": "median of differences within a turn, 95% interval"},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the C++ program is."""
    parser.add_argument("--program", type=Path, default=Path("build/release/bin/isthmus-overhead"))


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
