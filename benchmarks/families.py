"""Exports Hugging Face families to every format and proves each in C++; see scripts/families."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from by_hand import WAYS, by_hand, inputs_of, same, shapes, tensors_of
from hf_families import FAMILIES
from hf_models import Example
from rich.console import Console
from rich.table import Table
from shared import compact, engine_pairs, native_verify, run_facts
from state import State
from tiny_models import build, family_names

import isthmus
from isthmus.exporters.options import FORMATS

SECONDS = 1800.0
"""The time that a family may take."""
PASSED, REFUSED, WRONG = "passed", "refused", "WRONG"


@dataclass(frozen=True)
class Row:
    """A family in a format on an engine, or made with one of torch's tools by hand."""

    family: str
    format: str
    engine: str
    verdict: str
    """`PASSED`, `REFUSED`, or `WRONG`: it was served and differs from eager on an unseen call."""
    noise_units: float | None = None
    """The largest RMS error to float64 over all goldens and outputs, in units of eager's own."""
    strategy: str = ""
    reason: str = ""


def example_of(family: str) -> Example:
    """Returns the family's tiny model with a call."""
    return FAMILIES[family]() if family in FAMILIES else build(family)


# --- one family -----------------------------------------------------------------------------------


def prove(path: Path, artifact: str, engine: str) -> tuple[bool, float | None, str]:
    """Returns (passed, largest error in units of eager's own, reason) of `isthmus-run verify`."""
    code, document, errors = native_verify(path, "--artifact", artifact, "--engine", engine)
    if document is None:
        return False, None, errors.strip() or f"exit code {code}"
    if "error" in document:
        return False, None, str(document["error"]["message"])
    rows = document.get("rows", [])
    units = [float(row["noise_units"]) for row in rows if row.get("noise_units") is not None]
    reasons = [str(row["reason"]) for row in rows if row.get("reason")]
    return code == 0, max(units, default=None), "; ".join(reasons[:1])


def unseen(example: Example, path: Path, engine: str) -> tuple[str, str]:
    """Returns the verdict of calls that are no goldens, and where they differ from eager."""
    model = isthmus.load(path, engine=engine, trust="native")
    for shape in shapes(example):
        inputs = inputs_of(example, shape)
        sizes = ", ".join(f"{name}={size}" for name, size in shape.items())
        try:
            given = tensors_of(model(**inputs))
        except isthmus.Error as error:
            return REFUSED, f"at {sizes}: {error}"
        with torch.no_grad():
            wanted = tensors_of(example.module(**inputs))
        if not same(wanted, given):
            return WRONG, f"at {sizes}"
    return PASSED, ""


def exported(family: str, formats: Sequence[str], folder: Path) -> list[Row]:
    """Exports a family and returns a row for each format and engine."""
    example = example_of(family)
    path = folder / "bundle"
    try:
        bundle = isthmus.export(
            example.module, **example.call, path=path, formats=formats, name=family
        )
    except isthmus.Error as error:
        return [Row(family, name, "", REFUSED, reason=str(error)) for name in formats]
    names = {artifact.format: artifact.name for artifact in bundle.manifest.artifacts}
    rows = []
    for result in bundle.results:
        if result.format not in names:
            rows.append(Row(family, result.format, "", REFUSED, reason=result.explanation))
            continue
        for _, engine in engine_pairs([result.format]):
            passed, units, reason = prove(path, names[result.format], engine)
            verdict = REFUSED
            if passed:
                verdict, reason = unseen(example, path, engine)
            row = Row(family, result.format, engine, verdict, units, result.strategy, reason)
            rows.append(row)
    return rows


def made_by_hand(family: str) -> list[Row]:
    """Returns a row for each of torch's own tools."""
    example = example_of(family)
    rows = []
    for way in WAYS:
        answer = by_hand(example, way)
        verdicts = {"right": PASSED, "wrong": WRONG}
        verdict = verdicts.get(answer.split()[0], REFUSED)
        rows.append(Row(family, way, "", verdict, reason="" if verdict == PASSED else answer))
    return rows


def examine(family: str, work: str) -> list[Row]:
    """Returns the rows of a family in a process of its own, which may crash or take too long."""
    command = [sys.executable, __file__, "--family", family, "--work", work]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, text=True, check=False)
    except subprocess.TimeoutExpired:
        reason = f"it took more than {SECONDS:.0f} s"
    else:
        if done.returncode == 0:
            return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]
        lines = done.stderr.strip().splitlines()
        reason = f"the process ended with {done.returncode}: {lines[-1] if lines else ''}"
    formats = list(WAYS) if work == BY_HAND else work.split(",")
    return [Row(family, name, "", REFUSED, reason=reason) for name in formats]


BY_HAND = "by hand"


def examine_here(family: str, work: str) -> None:
    """Prints the rows of a family as JSON on one line."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="isthmus-family-") as text:
        warnings.simplefilter("ignore")
        if work == BY_HAND:
            rows = made_by_hand(family)
        else:
            rows = exported(family, work.split(","), Path(text))
    print(json.dumps([asdict(row) for row in rows]))


# --- all families ---------------------------------------------------------------------------------


def known_families(path: Path, console: Console) -> dict[str, str]:
    """Returns why a family has no model, by name; empty for those that have one.

    Building all of them takes minutes, so that the answers are kept beside the results.
    """
    known: dict[str, str] = {}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    names = list(dict.fromkeys([*FAMILIES, *family_names()]))
    for number, name in enumerate(name for name in names if name not in known):
        console.print(f"building {name} ({number + 1})", markup=False, highlight=False)
        command = [sys.executable, __file__, "--build", name]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, text=True, check=False)
            lines = done.stderr.strip().splitlines()
            known[name] = "" if done.returncode == 0 else (lines[-1] if lines else "it crashed")
        except subprocess.TimeoutExpired:
            known[name] = "its default configuration is too large"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=0), encoding="utf-8")
    return known


def cell(row: Row) -> str:
    """Returns a row's verdict for a table."""
    if row.verdict != PASSED or row.noise_units is None:
        return row.verdict
    return f"{row.noise_units:.2g}"


def table_of(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Returns the cells by family and column; a refused format has one for each of its engines."""
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        engines = [engine for _, engine in engine_pairs([row.format])] if not row.engine else []
        if row.format in WAYS:
            engines = [""]
        cells = table.setdefault(row.family, {})
        for engine in engines or [row.engine]:
            cells[f"{row.format} {engine}".strip()] = cell(row)
    return table


def counts(table: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Returns "212 passed, 12 refused, 0 WRONG" by column."""
    columns = list(dict.fromkeys(name for cells in table.values() for name in cells))
    result = {}
    for column in columns:
        cells = [cells[column] for cells in table.values() if column in cells]
        refused, wrong = cells.count(REFUSED), cells.count(WRONG)
        passed = len(cells) - refused - wrong
        result[column] = f"{passed} passed, {refused} refused, {wrong} WRONG"
    return result


def markdown(rows: Sequence[Row], context: Mapping[str, str]) -> str:
    """Returns the table as Markdown with the reasons below it."""
    table = table_of(rows)
    totals = counts(table)
    lines = ["# Families of Hugging Face models, from tiny random configurations to C++", ""]
    lines += [f"{key}: {value}  " for key, value in context.items()]
    lines += [
        "",
        "A number is the largest RMS error to float64 over all goldens and outputs, in units of",
        "eager's own; every golden passed the manifest's tolerance, and calls at other sizes gave",
        "eager's answers. WRONG is an answer that differs without a word. The last columns are",
        "torch's own tools, used by hand.",
        "",
        "| family | " + " | ".join(totals) + " |",
        "| --- |" + " ---: |" * len(totals),
        f"| **all {len(table)}** | " + " | ".join(totals.values()) + " |",
    ]
    for family, cells in table.items():
        lines.append(f"| {family} | " + " | ".join(cells.get(name, "-") for name in totals) + " |")
    reasons = [row for row in rows if row.verdict != PASSED]
    if reasons:
        lines += ["", "## Reasons", ""]
    for row in reasons:
        where = f"{row.format}{' on ' + row.engine if row.engine else ''}"
        reason = " / ".join(row.reason.split("\n"))[:400]
        lines.append(f"- {row.family}, {where}: {row.verdict}: {reason}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the families and writes the table; returns 1 where an answer is WRONG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--by-hand", action="store_true", help="torch's own tools as well")
    parser.add_argument("--state", type=Path, default=Path("build/families/state.jsonl"))
    parser.add_argument("--fresh", action="store_true", help="forget the results so far")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--family", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.family:
        examine_here(options.family, options.work)
        return 0
    if options.build:
        example_of(options.build)
        return 0
    unknown = set(options.families) - {*FAMILIES, *family_names()}
    if unknown:
        parser.error(f"transformers {transformers.__version__} has no family {min(unknown)}")
    console = Console(stderr=True)
    if options.fresh:
        options.state.unlink(missing_ok=True)
    state = State(options.state, "family")
    names = options.families
    if not names:
        known = known_families(options.state.with_name("built.json"), console)
        names = [name for name, why in known.items() if not why]
    works = [options.formats, *([BY_HAND] if options.by_hand else [])]
    todo = [(name, work) for name in names for work in works if (name, work) not in state.rows]
    for number, (name, work) in enumerate(todo):
        start = time.perf_counter()
        with console.status(f"{name}, {work} ({number + 1} of {len(todo)})"):
            rows = examine(name, work)
        state.add(work, [name], [asdict(row) for row in rows])
        verdicts = ", ".join(f"{row.format} {row.engine} {cell(row)}" for row in rows)
        seconds = time.perf_counter() - start
        console.print(f"{name}: {verdicts} ({seconds:.0f} s)", markup=False, highlight=False)
    rows = [Row(**row) for name in names for work in works for row in state.rows[name, work]]
    context: dict[str, Any] = {
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "isthmus": isthmus.__version__,
        "python": sys.version.split()[0],
        **run_facts(),
    }
    totals = counts(table_of(rows))
    if options.json:
        document = {"json_schema_version": 2, "context": context, "totals": totals}
        document |= {"families": table_of(rows)}
        options.json.write_text(compact(document), encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(rows, context), encoding="utf-8")
    table = Table("made with", "families")
    for column, total in totals.items():
        table.add_row(column, total)
    Console().print(table)
    return 1 if any(row.verdict == WRONG and row.format not in WAYS for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
