"""Compares isthmus with the tools that a user would pick instead, side by side.

all-MiniLM-L6-v2 and BERT-base on three shapes and a stream of real sentences. Each contender is a
process; all have the same threads and take turns in random order. A contender whose answers differ
from the eager module's is not timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from peers import judge, limit, plot, text
from peers.bundles import ModelFiles, prepare
from peers.kinds import PEERS, Contender, Shape, ours
from peers.report import PeersResult
from peers.rows import STREAM, Row, Start
from peers.shape_run import Effort, measure_shape, measure_starts
from peers.stream_run import Batching, build_program, measure_stream
from shapes import MODELS
from shared import CONFIDENCE, minilm_weights, run, run_facts

from isthmus.runtime.machine import cpu_governor, load_average, machine_facts, version_of
from isthmus.runtime.workers import available_cores
from isthmus.timing.bench_report import rounds_for

SHAPES = "1x14,1x128,16x64"
MINILM = "all-MiniLM-L6-v2"
ENGINES = ("torchscript", "onnxruntime", "openvino", "aoti")
PACKAGES = ("transformers", "onnxruntime", "openvino", "ctranslate2")
STREAM_EVERY = {"BERT-base": 8}
"""The step between the sentences of a model: BERT-base takes eight times as long as MiniLM."""
BUSY = 0.5
"""The load average before the run from which on a note calls the machine busy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is measured, and for how long."""
    parser.set_defaults(rounds=12)
    parser.add_argument("--models", type=_names, default=tuple(MODELS), help=", ".join(MODELS))
    parser.add_argument("--shapes", type=_names, default=_names(SHAPES), help=SHAPES)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="contenders whose name holds this; may be repeated",
    )  # fmt: skip
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="about, of each contender")
    parser.add_argument(
        "--stream", type=int, default=2000, metavar="N", help="sentences; 0: no stream"
    )
    parser.add_argument("--stream-models", type=_names, default=None, help="default: all")
    parser.add_argument(
        "--whole-stream", action="store_true", help="BERT-base too, not every eighth sentence"
    )
    parser.add_argument("--stream-rounds", type=int, default=6, help="passes of each contender")
    parser.add_argument("--workers", type=int, default=available_cores(), help="of the batcher")
    parser.add_argument("--starts", type=int, default=3, help="process starts of each; 0: none")
    parser.add_argument("--keep-tuning", action="store_true", help="do not tune again")
    parser.add_argument("--quick", action="store_true", help="to see that it works: a few minutes")
    parser.add_argument("--plot", type=Path, help="writes a .png or .svg")


def _names(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


def hurry(options: argparse.Namespace) -> None:
    """Reduces everything to a functional check, whose numbers mean nothing."""
    options.models = options.models[:1]
    options.rounds, options.stream_rounds, options.starts = 3, 2, 1
    options.turn_seconds, options.stream = 0.05, min(options.stream, 100)
    options.keep_tuning = True


def contenders(only: Sequence[str]) -> list[Contender]:
    """Returns the contenders whose label contains one of the words; all without any word."""
    return [
        contender
        for contender in (*ours(ENGINES), *PEERS)
        if not only or any(word.lower() in contender.label.lower() for word in only)
    ]


def say(line: str) -> None:
    """Prints progress to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr)


def measure(options: argparse.Namespace) -> PeersResult:
    """Measures everything that the options name."""
    load = load_average()
    if options.quick:
        hurry(options)
    shapes = [Shape.parse(shape) for shape in options.shapes]
    chosen = contenders(options.only)
    if not chosen or not shapes:
        known = ", ".join(contender.label for contender in contenders([]))
        sys.exit(f"nothing to measure; contenders are {known}")
    threads = available_cores()
    stream = text.tokenised(minilm_weights(), options.stream) if options.stream else None
    rows: list[Row] = []
    starts: list[Start] = []
    models: list[ModelFiles] = []
    bounds: list[limit.Limit] = []
    for name in options.models:
        model = prepare(name, options.folder, shapes, retune=not options.keep_tuning)
        models.append(model)
        for shape in shapes:
            say(f"{name}, {shape}")
            bounds.append(limit.measure_limit(threads))
            effort = Effort(threads, options.rounds, options.turn_seconds)
            rows += measure_shape(model, shape, chosen, effort, say)
        if stream is not None and name in (options.stream_models or options.models):
            say(f"{name}, {STREAM}")
            effort = Effort(threads, options.stream_rounds, 0)
            batching = Batching(workers=options.workers)
            program = build_program(options.folder)
            part = stream if options.whole_stream else stream.every(STREAM_EVERY.get(name, 1))
            rows += measure_stream(model, part, chosen, batching, effort, program, say)
        if options.starts:
            starts += measure_starts(model, shapes[0], chosen, threads, options.starts, say)
    bounds.append(limit.measure_limit(threads))
    bound = limit.best_of(bounds)
    result = PeersResult(
        rows=tuple(rows),
        starts=tuple(starts),
        claims=tuple(judge.claims(rows, {model.name: model.engine for model in models})),
        limit=bound,
        facts=_facts(options, threads, load, models, stream, bound),
        notes=_notes(options, load),
        unjudged=_why_unjudged(options),
    )
    if options.plot:
        plot.draw(result, options.plot)
    return result


def _facts(
    options: argparse.Namespace,
    threads: int,
    load: float,
    models: Sequence[ModelFiles],
    stream: text.Stream | None,
    bound: limit.Limit,
) -> dict[str, str]:
    stream_facts = {} if stream is None else {
        "stream": f"{stream.describe()}, of {text.SOURCE}",
        **(
            {}
            if options.whole_stream
            else {f"stream, {name}": f"every {step}th" for name, step in STREAM_EVERY.items()}
        ),
        "stream batches": "peers: 16 sentences, padded to the longest, as they come or sorted by"
        f" length; isthmus: its batcher, {options.workers} workers with"
        f" {max(1, threads // options.workers)} threads each",
    }  # fmt: skip
    return {
        **machine_facts(),
        **{name: version_of(name) for name in PACKAGES},
        "clock governor": cpu_governor(),
        "load average before": f"{load:.2f}",
        "threads": str(threads),
        "method": f"one process each, {options.rounds} rounds of about {options.turn_seconds:g} s"
        f" in random order, {options.stream_rounds} of the stream; {CONFIDENCE:.0%} intervals over"
        " rounds; in heats where memory has no room for all, with auto in each",
        "limit": bound.describe(),
        "of product": "share of the matrix product's rate: layers x (tokens x (8 h^2 + 4 h i)"
        " + batch x 4 s^2 h) operations a call (h hidden, i intermediate, s sequence)",
        "of copy": "share of the copy's rate: the encoder's float32 matrices read once a call;"
        " a cache that holds them makes it more than all",
        "error": "largest difference from eager over the bundle's absolute tolerance; int8: cosine",
        "process start": f"to the first answer at {options.shapes[0]}, files in the page cache;"
        " isthmus without its warm-up",
        **{f"auto, {model.name}": model.ranking for model in models},
        **stream_facts,
        **run_facts(),
    }  # fmt: skip


def _why_unjudged(options: argparse.Namespace) -> str:
    """Returns the reason why a partial run has no verdict; empty for a complete run."""
    if options.quick:
        return "--quick only checks that the benchmark works"
    return "with --only, the fastest peer may be missing" if options.only else ""


def _notes(options: argparse.Namespace, load: float) -> tuple[str, ...]:
    notes = []
    if load > BUSY:
        notes.append(f"the machine was busy: load average {load:.2f} before anything began")
    least = rounds_for(CONFIDENCE)
    if options.rounds < least or (options.stream and options.stream_rounds < least):
        notes.append(f"fewer than {least} rounds: the intervals are narrower than they should be")
    return tuple(notes)


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure, add_arguments))
