"""Does it pay to export a convolutional network in channels-last layout? ResNet-18, both layouts.

`module.to(memory_format=torch.channels_last)` before `isthmus.export` stores the weights of
convolutions with the channels innermost; inputs stay as they are. Every format and engine, one
image of 224 x 224 pixels and eight, in isthmus-run, a fresh process for every sample, in random
order. Both bundles are verified on their goldens before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from first_call import ENGINES, one_process
from shared import Result, interval_text, run, turns

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.exporters.formats import FORMATS
from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores
from isthmus.timing.statistics import ratio_over_rounds

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from models import ResNet18

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
BATCHES = (1, 8)


def export(folder: Path, layout: str) -> Bundle:
    """ResNet-18 with random weights in one layout, verified on every engine."""
    torch.manual_seed(0)
    module: Any = ResNet18().eval().to(memory_format=LAYOUTS[layout])
    pixels = torch.randn(BATCHES[0], 3, 224, 224)
    bundle = isthmus.export(
        module,
        (pixels,),
        path=folder / f"resnet-{layout.replace(' ', '-')}",
        dynamic={"pixels": {0: "batch"}},
        dims={"batch": (1, 16)},
        formats=FORMATS,
        probes=[{"pixels": torch.randn(size, 3, 224, 224)} for size in BATCHES[1:]],
        overwrite=True,
    )
    if not isthmus.verify(bundle, engines=list(ENGINES), trust="native"):
        sys.exit(f"{layout}: not the model's answers; see isthmus verify {bundle.path}")
    return bundle


def golden_of(bundle: Bundle, batch: int) -> str:
    """A golden of that many images."""
    return next(golden.name for golden in bundle.manifest.goldens if golden.dims["batch"] == batch)


def measure(options: argparse.Namespace) -> Result:
    """Starts every layout on every engine once a round."""
    options.folder.mkdir(parents=True, exist_ok=True)
    threads = available_cores()
    commands = {}
    for layout in LAYOUTS:
        print(f"exporting {layout}", file=sys.stderr)
        bundle = export(options.folder, layout)
        for engine in ENGINES:
            for batch in BATCHES:
                commands[f"{engine}|{batch}|{layout}"] = [
                    str(install_paths.binary()), "bench", str(bundle.path), "--worker",
                    "--allow-native", "--golden", golden_of(bundle, batch), "--engine", engine,
                    "--threads", str(threads),
                ]  # fmt: skip
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for index, name in turns(commands, options.rounds):
        print(f"round {index + 1}: {name}", file=sys.stderr)
        *_, median = one_process(commands[name], threads)
        samples[name].append(median)
    rows = []
    for engine in ENGINES:
        for batch in BATCHES:
            usual, last = (samples[f"{engine}|{batch}|{layout}"] for layout in LAYOUTS)
            rows.append(
                {
                    "engine, images": f"{engine}, {batch}",
                    "contiguous ms": statistics.median(usual),
                    "channels last ms": statistics.median(last),
                    "channels last / contiguous": interval_text(
                        ratio_over_rounds(last, usual, confidence=0.95)
                    ),
                    "samples_ms": {"contiguous": usual, "channels last": last},
                }
            )
    return Result(
        name="layouts",
        columns=(
            "engine, images", "contiguous ms", "channels last ms", "channels last / contiguous",
        ),
        rows=tuple(rows),
        claim="; ".join(
            f"{row['engine, images']}: {row['channels last / contiguous']}" for row in rows
        ),
        passed=True,
        judged=False,
        facts={"model": "ResNet-18, random weights, 224 x 224", "threads": str(threads)},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
