"""A bundle's report as one HTML file. Needs jinja2, the extra `isthmus[report]`.

`report.html.j2` is the page, `report.css` its looks; here is what they show, laid out for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.document import number
from isthmus.errors import InvalidInput
from isthmus.goldens.tolerance import MULTIPLES
from isthmus.proof.explain.explanation import Explanation
from isthmus.proof.explain.layer_errors import SLACK
from isthmus.proof.verify_report import VerifyRow
from isthmus.reports import charts as charts
from isthmus.reports.bundle_document import range_text, shape_text, size_text
from isthmus.reports.layers import errors_chart, multiples_chart
from isthmus.reports.matrix import TIMES, Cell, name_of, per_cent, share_text
from isthmus.timing.bench_report import BenchRow, Comparison, place

if TYPE_CHECKING:
    from isthmus.reports.bundle_report import BundleReport

TEMPLATE = "report.html.j2"
STYLE = "report.css"
_HEADLINE = 300
"""Letters of a reason in the first screen; the rest is in the table."""


def check_jinja2() -> None:
    """Before minutes of work rather than after.

    Raises:
        InvalidInput: There is no jinja2.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            "an HTML report needs jinja2; install it with: pip install 'isthmus[report]'"
        ) from error


def render(report: BundleReport) -> str:
    """The page.

    Raises:
        InvalidInput: There is no jinja2.
    """
    check_jinja2()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=number, size=size_text, per_cent=per_cent, source=short_source, shape=shape_text,
    )  # fmt: skip
    view = {
        "report": report,
        "manifest": report.bundle.manifest,
        # Ours, without anything from the bundle: the one text that is not escaped.
        "style": Markup((folder / STYLE).read_text(encoding="utf-8")),
        "headline": headline(report),
        "reason": first_reason(report),
        "facts": facts(report),
        "ruler": Markup(_ruler(report)),
        "proof": proof(report),
        "absent": absent(report.parity.rows),
        "head": golden_head(report),
        "tone": tone,
        "cell_title": cell_title,
        "ranking": _ranking(report, Markup),
        "layers": [_layers(explanation, Markup) for explanation in report.explanations],
        "speed": _speed(report, Markup),
        "sizes": sizes(report),
        "range_text": range_text,
    }
    return environment.get_template(TEMPLATE).render(view)


# --- the verdict ----------------------------------------------------------------------------------


def headline(report: BundleReport) -> tuple[str, str, str]:
    """The verdict in one sentence, without its reason: before the name, the name, behind it."""
    ran = [row for row in report.parity.rows if row.status != "absent"]
    failed = len(report.parity.failures)
    if not ran:
        return "Nothing here could run ", report.name, ""
    if failed:
        do = "does" if failed == 1 else "do"
        ways = "way" if len(ran) == 1 else "ways"
        start = f"{failed} of {len(ran)} {ways} of running "
        return start, report.name, f" {do} not give the model's answers"
    if len(ran) == 1:
        return "The one way of running ", report.name, " here gives the model's answers"
    return f"All {len(ran)} ways of running ", report.name, " give the model's answers"


def first_reason(report: BundleReport) -> str:
    """What failed first, and why; what a layer has to do with it, where that was found."""
    for explanation in report.explanations:
        if explanation.culprit is not None and report.parity.failures:
            return short_source(explanation.sentence)
    for row in report.parity.failures:
        text = f"{name_of(row, report.parity)}: {row.reason}"
        return text if len(text) <= _HEADLINE else f"{text[:_HEADLINE].rstrip()} …"
    return ""


def facts(report: BundleReport) -> list[tuple[str, str]]:
    """A few numbers for who reads no further: (number, what it is)."""
    goldens = len(report.bundle.manifest.goldens)
    answers = sum(len(row.results) for row in report.parity.rows)
    found = [(str(answers), f"outputs compared, on {goldens} goldens")]
    shares = [
        (cell.share, line.name) for line in report.matrix for cell in line.cells if cell.share
    ]
    if shares:
        share, name = max(shares)
        found.append((share_or_times(share), f"of its tolerance, at most: {name}"))
    timed = [row for row in report.speed.rows if row.rounds_ms] if report.speed else []
    if timed:
        best = min(timed, key=lambda row: _median(row))
        found.append((f"{number(_median(best))} ms", f"a call of the fastest: {best.label}"))
    found.append((size_text(report.size), "the whole bundle"))
    return found


def _ruler(report: BundleReport) -> str:
    answers = [
        (cell.share, cell.status == "passed", f"{line.name}, {cell_title(cell)}")
        for line in report.matrix
        for cell in line.cells
        if cell.share is not None
    ]
    return charts.ruler(answers) if answers else ""


# --- parity ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """A line of the first table."""

    name: str
    row: VerifyRow
    distance: str
    share: str
    bar: float
    """Width of the bar, per cent."""
    needed: str
    """What would pass, and where."""


def proof(report: BundleReport) -> list[Proof]:
    """Everything that ran."""
    from isthmus.proof.verify_report import needed_of

    found = []
    for line in report.matrix:
        worst = line.row.worst
        found.append(
            Proof(
                line.name,
                line.row,
                times(line.row.distance),
                "-" if worst is None else share_or_times(worst.strain),
                bar(None if worst is None else worst.strain),
                "-" if worst is None else f"{needed_of(worst)}; {worst.output} of {worst.golden}",
            )
        )
    return found


def times(value: float | None) -> str:
    """ "1.44 x", "1 900 x" with the sign for it: as people write it, while they can read it."""
    if value is None:
        return "-"
    if not 1000 <= value < 1e7:
        return f"{number(value)} {TIMES}"
    return f"{float(f'{value:.2g}'):,.0f} {TIMES}".replace(",", "\u202f")


def share_or_times(share: float) -> str:
    """ "38 %", and from ten times the tolerance on "12 x"."""
    return times(share) if share >= 10 else share_text(share)


def absent(rows: Iterable[VerifyRow]) -> list[tuple[str, list[str]]]:
    """By reason: what did not run."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "absent":
            found.setdefault(row.reason, []).append(f"{row.label} on {row.device}")
    return list(found.items())


def golden_head(report: BundleReport) -> list[tuple[str, list[str]]]:
    """The matrix's head: a line for each dimension, then what else tells the goldens apart."""
    names = [cell.golden for cell in report.matrix[0].cells] if report.matrix else []
    dims = {golden.name: golden.dims for golden in report.bundle.manifest.goldens}
    lines = {key: [str(dims.get(name, {}).get(key, "")) for name in names]
             for key in dict.fromkeys(key for dim in dims.values() for key in dim)}  # fmt: skip
    rest = [_rest(name, dims.get(name, {})) for name in names]
    return [*lines.items(), ("golden" if not lines else "probe", rest)]


def _rest(name: str, dims: Any) -> str:
    """The golden's name without the sizes that stand above it already."""
    sizes = "-".join(f"{key}{size}" for key, size in dims.items())
    return name.removeprefix(sizes).removeprefix("-") if sizes else name


def tone(cell: Cell) -> str:
    """Class of a cell: how much of the tolerance it used."""
    if cell.status != "passed":
        return cell.status
    share = cell.share or 0.0
    return f"t{next((at for at, edge in enumerate((0.1, 0.25, 0.5, 0.75)) if share <= edge), 4)}"


def bar(share: float | None) -> float:
    """Per cent of a box."""
    if share is None:
        return 0.0
    return 100.0 if not share <= 1 else round(100 * max(0.0, share), 1)


def cell_title(cell: Cell) -> str:
    """What a cell says when it is pointed at."""
    if cell.result is None:
        return f"{cell.golden}: no answer, {cell.reason}"
    found = cell.result
    by = f" by {found.statistic}" if found.statistic else ""
    used = f"{found.output} of {cell.golden} used {share_text(found.strain)} of what is allowed{by}"
    return f"{used}; {cell.reason}" if cell.reason else used


def _ranking(report: BundleReport, markup: Any) -> dict[str, Any]:
    rows = report.parity.ranking
    axis = charts.axis_for([row.distance or 0.0 for row in rows], TIMES, least=1.0, log_from=0.5)
    return {
        "axis": markup(axis.picture()),
        "rows": [
            {
                "name": name_of(row, report.parity),
                "value": times(row.distance),
                "strip": markup(charts.distance_strip(row.distance or 0.0, axis, passed=bool(row))),
            }
            for row in rows
        ],
    }


# --- layers ---------------------------------------------------------------------------------------


def _layers(found: Explanation, markup: Any) -> dict[str, Any]:
    allowed = SLACK * MULTIPLES["rms"]
    unseen = sum(not layer.seen for layer in found.layers)
    return {
        "found": found,
        "chart": markup(multiples_chart(found, allowed)),
        "errors": markup(errors_chart(found)),
        "allowed": allowed,
        "unseen": unseen,
        "hints": [short_source(line) for line in found.lines[1:]],
        "culprit": found.culprit,
    }


def short_source(text: str) -> str:
    """Paths without the folders of the machine that the report was made on."""
    text = re.sub(r"[^\s:'\"]*/(?:site|dist)-packages/", "", text)
    text = re.sub(r"[^\s:'\"]*/lib/python3\.\d+/", "", text)
    here = str(Path.cwd())
    return text.replace(f"{here}/", "") if len(here) > 1 else text


# --- speed and sizes ------------------------------------------------------------------------------


def _median(row: BenchRow) -> float:
    return row.summary.median_ms if row.summary is not None else math.inf


def _speed(report: BundleReport, markup: Any) -> dict[str, Any] | None:
    speed = report.speed
    if speed is None:
        return None
    timed = [row for row in speed.rows if row.rounds_ms]
    axis = charts.axis_for([charts.reach(row.samples_ms) for row in timed], "ms")
    beyond = sum(sample > axis.edge for row in timed for sample in row.samples_ms)
    groups: dict[tuple[str, str], list[BenchRow]] = {}
    for row in timed:
        groups.setdefault((row.form, row.device), []).append(row)
    verdicts = {
        (comparison.form, comparison.device): comparison for comparison in speed.comparisons
    }
    missing: dict[str, list[str]] = {}
    for row in speed.rows:
        if not row.rounds_ms:
            missing.setdefault(row.unavailable or "no calls", []).append(row.label)
    return {
        "axis": markup(axis.picture()),
        "beyond": beyond,
        "calls": sum(len(row.samples_ms) for row in timed),
        "rows": timed,
        "groups": [
            {
                "name": f"{form} on {place(device)}",
                "verdict": comparison_text(verdicts.get((form, device))),
                "rows": [
                    {"row": row, "strip": markup(
                        charts.latency_strip(row.samples_ms, axis, row.language))}
                    for row in rows
                ],
            }
            for (form, device), rows in groups.items()
        ],
        "missing": list(missing.items()),
        "context": {key: value for key, value in speed.context.items()
                    if key in ("clock governor", "load average before", "inputs", "method",
                               "difference")},
        "notes": speed.notes,
    }  # fmt: skip


def comparison_text(comparison: Comparison | None) -> str:
    """ "C++ faster: 0.59 x the time of Python (99 % interval 0.57 to 0.61)"."""
    if comparison is None or (
        comparison.interval is None and None in (comparison.python_ms, comparison.cpp_ms)
    ):
        return ""
    if comparison.interval is None:
        return comparison.reason
    found = comparison.interval
    return (
        f"{comparison.verdict}: {found.ratio:.2f} x the time of Python"
        f" ({found.confidence:.0%} interval {found.low:.2f} to {found.high:.2f})"
    )


def sizes(report: BundleReport) -> list[dict[str, Any]]:
    """A line for each part of the bundle, with its share of the whole."""
    parts: dict[str, list[tuple[str, int]]] = {}
    for name, file in report.files:
        parts.setdefault(name, []).append((file.path, file.size))
    return [
        {
            "name": name,
            "size": sum(size for _, size in files),
            "share": round(100 * sum(size for _, size in files) / max(1, report.size), 1),
            "files": files,
        }
        for name, files in parts.items()
    ]
