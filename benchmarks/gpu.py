"""BERT-base on a GPU with every tool, in processes that take turns.

Eager, torch.compile (default and reduce-overhead), traced TorchScript, AOTInductor, LibTorch called
directly from C++, and isthmus with and without CUDA graphs, from Python and C++.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gpu.bare import build, write_inputs
from gpu.bert_bundle import FORMATS, prepare, save_inputs, small_model
from gpu.contenders import CONTENDERS, DTYPES, GRAPHS, Contender, Request
from peers.kinds import INPUTS, Shape
from peers.processes import Runner, ending, quit_all, start, take_turns, warm_up
from shared import CONFIDENCE, Result, run

from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores, python_worker
from isthmus.timing.statistics import median_interval

SHAPES = "1x14,1x128,32x128"
DISCARDED = 2
"""The calls discarded at the start of each turn, because another process had the device."""
LEAST_CALLS = 5
CALLS_BEFORE = 10
"""The calls of each contender before any timing: compilers and profilers are done by then."""


def command_of(request: Request, folder: Path, program: Path | None) -> list[str]:
    """Returns the command that serves the request."""
    contender = request.contender
    if contender.kind == "bare":
        assert program is not None
        with np.load(request.inputs) as file:
            path = write_inputs(folder / "inputs.bin", [file[name] for name in INPUTS])
        return [
            str(program), contender.option, request.file, str(path), request.device,
            str(request.threads),
        ]  # fmt: skip
    if contender.language == "C++":
        graphs = [f"{name}={value}" for name, value in GRAPHS.items()] if contender.graphs else []
        return [
            str(install_paths.binary()), "bench", request.bundle, "--worker",
            "--engine", contender.engine,
            "--device", request.device,
            "--inputs", request.inputs,
            "--threads", str(request.threads),
            "--trust", "native",
            *(word for option in graphs for word in ("--engine-option", option)),
        ]  # fmt: skip
    path = folder / f"{contender.label.replace(' ', '-').replace(',', '')}.json"
    path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    return python_worker("gpu.worker", str(path))


def difference(runner: Runner, expected: np.ndarray | None, folder: Path) -> np.ndarray | None:
    """Notes the answer's distance from eager's, and returns the answer."""
    kind = runner.contender.kind
    if runner.contender.language == "C++" and kind != "bare":
        return None  # `isthmus-run verify` proves those
    path = folder / "answer.npy"
    if not runner.ask(f"answer {path}"):
        return None
    if kind == "bare":
        assert expected is not None
        answer = np.fromfile(path, dtype=np.float32).reshape(expected.shape)
    else:
        answer = np.load(path)
    if expected is not None:
        runner.accuracy = f"{np.abs(answer - expected).max():.1e}"
    return answer


def measure_shape(
    options: argparse.Namespace,
    bundle: Bundle,
    contenders: Sequence[Contender],
    shape: Shape,
    program: tuple[Path | None, str],
) -> list[dict[str, Any]]:
    """Returns a row for each contender."""

    def say(line: str) -> None:
        print(f"  {shape}: {line}", file=sys.stderr)

    files = {
        artifact.format: bundle.path / artifact.files[0].path
        for artifact in bundle.manifest.artifacts
    }
    runners = [Runner(contender) for contender in contenders]
    expected: np.ndarray | None = None
    with tempfile.TemporaryDirectory(prefix="isthmus-gpu-") as name, ending(runners):
        folder = Path(name)
        inputs = save_inputs(folder / "inputs.npz", shape)
        for runner, contender in zip(runners, contenders, strict=True):
            if contender.kind == "bare":
                runner.reason = program[1]
            if contender.format and contender.format not in files:
                runner.reason = f"the bundle has no artifact of the format {contender.format}"
            if runner.reason:
                continue
            say(f"starting {contender.label}")
            request = Request(
                contender=contender,
                device=options.device,
                precision=options.precision,
                threads=options.threads,
                bundle=str(bundle.path.resolve()),
                file=str(files[contender.format].resolve()) if contender.format else "",
                inputs=str(inputs),
            )
            start(runner, command_of(request, folder, program[0]), options.threads)
            runner.ask(f"run {CALLS_BEFORE}")
            if runner.worker is not None and (expected is not None or contender.kind == "eager"):
                answer = difference(runner, expected, folder)
                expected = answer if expected is None else expected
        warm_up(runners, options.turn_seconds, LEAST_CALLS, say)
        take_turns(runners, options.rounds, DISCARDED, say)
        quit_all(runners)
    return [
        row_of(shape, contender, runner)
        for contender, runner in zip(contenders, runners, strict=True)
    ]


def row_of(shape: Shape, contender: Contender, runner: Runner) -> dict[str, Any]:
    """Returns the contender's numbers at this shape."""
    rounds = [median(turn) for turn in runner.turns]
    row: dict[str, Any] = {
        "shape": str(shape),
        "contender": contender.name,
        "language": contender.language,
        "graphs": contender.graphs,
        "median ms": "-",
        "from eager": runner.accuracy or "-",
        "load ms": "-",
        "why not": runner.reason or "-",
        "median_ms": None,
        "load_ms": runner.load_ms,
        "first_call_ms": runner.first_call_ms,
        "runtime": runner.runtime,
        "peak_rss_bytes": runner.peak_rss_bytes,
        "samples": {"turns_ms": [list(turn) for turn in runner.turns]},
    }
    if rounds:
        low, high = median_interval(rounds, CONFIDENCE)
        row["median_ms"], row["interval_ms"] = median(rounds), [low, high]
        row["median ms"] = f"{median(rounds):.3f} ({low:.3f} to {high:.3f})"
        row["load ms"] = f"{runner.load_ms:.0f}"
    return row


def beside(rows: Sequence[dict[str, Any]]) -> None:
    """Sets "of bare": the median over that of LibTorch's TorchScript, called directly."""
    bare = {
        row["shape"]: row["median_ms"]
        for row in rows
        if (row["contender"], row["language"]) == ("LibTorch TorchScript", "C++")
    }
    for row in rows:
        own, base = row["median_ms"], bare.get(row["shape"])
        row["of_bare"] = own / base if own and base else None
        row["of bare"] = f"{row['of_bare']:.3f}" if row["of_bare"] else "-"


def measure(options: argparse.Namespace) -> Result:
    """Measures every contender on every shape."""
    if options.quick:
        small_model(options.folder)
        options.rounds, options.turn_seconds = 2, 0.05
    shapes = [Shape.parse(text) for text in options.shapes.split(",")]
    contenders = [
        contender
        for contender in CONTENDERS
        if not options.only or any(word in contender.label for word in options.only)
    ]
    formats = [format_name for format_name in FORMATS if format_name not in options.without]
    options.folder.mkdir(parents=True, exist_ok=True)
    bundle = prepare(options.folder, shapes, options.device, options.precision, formats)
    program = (
        build(options.folder)
        if any(contender.kind == "bare" for contender in contenders)
        else (None, "")
    )
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        rows += measure_shape(options, bundle, contenders, shape, program)
    beside(rows)
    return Result(
        name="gpu",
        columns=(
            "shape", "contender", "language", "median ms", "of bare", "from eager", "load ms",
            "why not",
        ),
        rows=tuple(rows),
        claim=verdict(rows),
        passed=all(row["median_ms"] for row in rows if not expected_absence(options, row)),
        facts=facts(options),
        judged=False,
    )  # fmt: skip


def expected_absence(options: argparse.Namespace, row: Mapping[str, Any]) -> bool:
    """Returns True when a row cannot have numbers: no GPU, or a format that was left out."""
    no_device = row["graphs"] and not options.device.startswith("cuda")
    return no_device or "no artifact of the format" in row["why not"]


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the fastest at each shape, and the number of rows without numbers."""
    words = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        timed = [row for row in rows if row["shape"] == shape and row["median_ms"]]
        if timed:
            best = min(timed, key=lambda row: float(row["median_ms"]))
            words.append(f"{shape}: {best['contender']} ({best['language']})")
    silent = sum(not row["median_ms"] for row in rows)
    return f"fastest at {'; '.join(words)}" + (f"; {silent} rows without numbers" if silent else "")


def facts(options: argparse.Namespace) -> dict[str, str]:
    """Returns the conditions of the measurement."""
    import torch

    gpu = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "none"
    return {
        "torch": torch.__version__,
        "device": options.device,
        "GPU": gpu,
        "model": "a small BERT: the numbers say nothing" if options.quick else "BERT-base",
        "precision": options.precision,
        "threads": str(options.threads),
        "method": f"{options.rounds} rounds in random order; each call is waited for within the"
        " clock; inputs lie on the device",
        "of bare": "median over that of LibTorch TorchScript (C++)",
        "from eager": "largest difference from the eager module's answer",
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is measured, and for how long."""
    parser.set_defaults(rounds=12, folder=Path("build/gpu"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shapes", default=SHAPES, help=SHAPES)
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=min(4, available_cores()))
    parser.add_argument("--turn-seconds", type=float, default=0.2, help="about, of each contender")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="contenders whose name holds this; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--without", action="append", default=[], metavar="FORMAT", help="formats not to export"
    )
    parser.add_argument(
        "--quick", action="store_true", help="does it work? a small model, two rounds"
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
