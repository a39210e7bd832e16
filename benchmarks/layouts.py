"""ResNet-18 exported in channels-last layout against contiguous layout, on every engine.

`module.to(memory_format=torch.channels_last)` before `isthmus.export` stores the weights of
convolutions with the channels innermost; inputs stay contiguous. One image of 224 x 224 pixels and
eight, in isthmus-run; each sample comes from a fresh process, in random order. Both bundles are
verified on their goldens before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from first_call import native_worker, sample_processes
from shared import FORMAT_OF_ENGINE, Result, interval_text, medians, ratio, run

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.exporters.options import FORMATS
from isthmus.runtime.workers import available_cores

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from models import ResNet18

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
BATCHES = (1, 8)


def export(folder: Path, layout: str) -> Bundle:
    """Exports ResNet-18 with random weights in a layout, and verifies it on every engine."""
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
    if not isthmus.verify(bundle, engines=list(FORMAT_OF_ENGINE), trust="native"):
        sys.exit(f"{layout}: not the model's answers; see isthmus verify {bundle.path}")
    return bundle


def golden_of(bundle: Bundle, batch: int) -> str:
    """Returns the name of a golden of that many images."""
    return next(golden.name for golden in bundle.manifest.goldens if golden.dims["batch"] == batch)


def measure(options: argparse.Namespace) -> Result:
    """Starts every layout on every engine once a round."""
    options.folder.mkdir(parents=True, exist_ok=True)
    threads = available_cores()
    cases = [(engine, batch) for engine in FORMAT_OF_ENGINE for batch in BATCHES]
    commands = {}
    for layout in LAYOUTS:
        print(f"exporting {layout}", file=sys.stderr)
        bundle = export(options.folder, layout)
        for engine, batch in cases:
            commands[f"{engine}|{batch}|{layout}"] = native_worker(
                bundle, engine, golden_of(bundle, batch), "--threads", str(threads)
            )
    samples = sample_processes(commands, options.rounds, threads)
    rows = []
    for engine, batch in cases:
        contiguous, channels_last = (
            [median for *_, median in samples[f"{engine}|{batch}|{layout}"]] for layout in LAYOUTS
        )
        rows.append(
            {
                "engine, images": f"{engine}, {batch}",
                **medians({"contiguous ms": contiguous, "channels last ms": channels_last}),
                "channels last / contiguous": interval_text(ratio(channels_last, contiguous)),
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
