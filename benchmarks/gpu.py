"""BERT-base on a GPU, every way that there is, in processes that take turns.

Eager, torch.compile (default and reduce-overhead), traced TorchScript, AOTInductor, LibTorch called
bare from C++, and isthmus with and without CUDA graphs, from Python and C++. `gpu/` has the parts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "scripts"))

from gpu.bare import build, write_inputs
from gpu.contenders import CONTENDERS, DTYPES, GRAPHS, INPUTS, Contender, Request
from gpu.subject import FORMATS, prepare, save_inputs, small_model
from peers.kinds import Shape
from peers.processes import Runner, ending, quit_all, start, take_turns, warm_up
from shared import Result, run

from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores, python_worker
from isthmus.timing.statistics import median_interval

SHAPES = "1x14,1x128,32x128"
CONFIDENCE = 0.95
DISCARDED = 2
"""Calls thrown away at the start of each turn: another process had the device."""
LEAST_CALLS = 5
CALLS_BEFORE = 10
"""Of each contender before any clock: compilers and profilers have then done what they do."""


def command_of(request: Request, folder: Path, program: Path | None) -> list[str]:
    """What serves the request."""
    one = request.contender
    if one.kind == "bare":
        assert program is not None
        with np.load(request.inputs) as file:
            path = write_inputs(folder / "inputs.bin", [file[name] for name in INPUTS])
        return [
            str(program), one.option, request.file, str(path), request.device, str(request.threads),
        ]  # fmt: skip
    if one.language == "C++":
        graphs = [f"{name}={value}" for name, value in GRAPHS.items()] if one.graphs else []
        return [
            str(install_paths.binary()), "bench", request.bundle, "--worker",
            "--engine", one.option,
            "--device", request.device,
            "--inputs", request.inputs,
            "--threads", str(request.threads),
            "--trust", "native",
            *(word for option in graphs for word in ("--engine-option", option)),
        ]  # fmt: skip
    import json

    path = folder / f"{one.label.replace(' ', '-').replace(',', '')}.json"
    path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    return python_worker("gpu.worker", str(path))


def difference(runner: Runner, expected: np.ndarray | None, folder: Path) -> np.ndarray | None:
    """Notes how far the answer is from eager's; gives the answer, for the first one to be it."""
    one: Contender = runner.contender  # type: ignore[assignment]
    if one.language == "C++" and one.kind != "bare":
        return None  # `isthmus-run verify` proves those
    path = folder / "answer.npy"
    if not runner.ask(f"answer {path}"):
        return None
    if one.kind == "bare":
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
    """A row for each contender."""

    def say(line: str) -> None:
        print(f"  {shape}: {line}", file=sys.stderr)

    files = {
        artifact.format: bundle.path / artifact.files[0].path
        for artifact in bundle.manifest.artifacts
    }
    runners = [Runner(contender) for contender in contenders]  # type: ignore[arg-type]
    expected: np.ndarray | None = None
    with tempfile.TemporaryDirectory(prefix="isthmus-gpu-") as name, ending(runners):
        folder = Path(name)
        inputs = save_inputs(folder / "inputs.npz", shape)
        for runner, one in zip(runners, contenders, strict=True):
            if one.kind == "bare":
                runner.reason = program[1]
            if one.format and one.format not in files:
                runner.reason = f"the bundle has no artifact of the format {one.format}"
            if runner.reason:
                continue
            say(f"starting {one.label}")
            request = Request(
                contender=one,
                device=options.device,
                precision=options.precision,
                threads=options.threads,
                bundle=str(bundle.path.resolve()),
                file=str(files[one.format].resolve()) if one.format else "",
                inputs=str(inputs),
            )
            start(runner, command_of(request, folder, program[0]), options.threads)
            runner.ask(f"run {CALLS_BEFORE}")
            if runner.worker is not None and (expected is not None or one.kind == "eager"):
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
    """Facts for people and machines."""
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
        "turns_ms": [list(turn) for turn in runner.turns],
    }
    if rounds:
        low, high = median_interval(rounds, CONFIDENCE)
        row["median_ms"] = median(rounds)
        row["median ms"] = f"{median(rounds):.3f} ({low:.3f} to {high:.3f})"
        row["load ms"] = f"{runner.load_ms:.0f}"
    return row


def beside(rows: Sequence[dict[str, Any]]) -> None:
    """Sets "of bare": each median over that of bare LibTorch's TorchScript at the same shape."""
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
    """Every contender on every shape."""
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
    """Whether a row without numbers is as it should be: no GPU, or a format left out."""
    no_device = row["graphs"] and not options.device.startswith("cuda")
    return no_device or "no artifact of the format" in row["why not"]


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """The fastest at each shape, and how many have no numbers."""
    words = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        timed = [row for row in rows if row["shape"] == shape and row["median_ms"]]
        if timed:
            best = min(timed, key=lambda row: float(row["median_ms"]))
            words.append(f"{shape}: {best['contender']} ({best['language']})")
    silent = sum(not row["median_ms"] for row in rows)
    return f"fastest at {'; '.join(words)}" + (f"; {silent} rows without numbers" if silent else "")


def facts(options: argparse.Namespace) -> dict[str, str]:
    """What the numbers depend on."""
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
    """What is measured, and how long."""
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
