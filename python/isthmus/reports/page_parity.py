"""The page's sections on verify: the rows, the matrix of goldens and the distances to float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from isthmus.document import number
from isthmus.proof.verify_report import VerifyRow, needed_of
from isthmus.reports import charts
from isthmus.reports.bundle_report import BundleReport
from isthmus.reports.matrix import TIMES, Cell, name_of, share_text

__all__ = [
    "ParityRow",
    "absent",
    "cell_title",
    "golden_head",
    "parity_rows",
    "ranking",
    "ruler",
    "share_or_times",
    "tone",
]


@dataclass(frozen=True)
class ParityRow:
    """A row of the first table."""

    name: str
    row: VerifyRow
    distance: str
    share: str
    bar: float
    """The width of the bar in per cent."""
    needed: str
    """The tolerance that would pass, and the output and golden that need it."""


def parity_rows(report: BundleReport) -> list[ParityRow]:
    """Returns a row for every engine and device that ran."""
    rows = []
    for line in report.matrix:
        worst = line.row.worst
        rows.append(
            ParityRow(
                line.name,
                line.row,
                times(line.row.distance),
                "-" if worst is None else share_or_times(worst.strain),
                bar(None if worst is None else worst.strain),
                "-" if worst is None else f"{needed_of(worst)}; {worst.output} of {worst.golden}",
            )
        )
    return rows


def times(value: float | None) -> str:
    """Formats a multiple: "1.44 x", and up to ten million with all digits: "1 900 x"."""
    if value is None:
        return "-"
    if not 1000 <= value < 1e7:
        return f"{number(value)} {TIMES}"
    return f"{float(f'{value:.2g}'):,.0f} {TIMES}".replace(",", "\u202f")


def share_or_times(share: float) -> str:
    """Formats a share of the tolerance: "38 %", and from ten times on "12 x"."""
    return times(share) if share >= 10 else share_text(share)


def bar(share: float | None) -> float:
    """Returns the width of a share's bar in per cent."""
    if share is None:
        return 0.0
    return 100.0 if not share <= 1 else round(100 * max(0.0, share), 1)


def absent(rows: Iterable[VerifyRow]) -> list[tuple[str, list[str]]]:
    """Groups the names of absent rows by reason."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "absent":
            names.setdefault(row.reason, []).append(f"{row.label} on {row.device}")
    return list(names.items())


def ruler(report: BundleReport) -> str:
    """Draws every answer by its share of the tolerance; empty without answers."""
    answers = [
        (cell.share, cell.status == "passed", f"{line.name}, {cell_title(cell)}")
        for line in report.matrix
        for cell in line.cells
        if cell.share is not None
    ]
    return charts.ruler(answers) if answers else ""


def golden_head(report: BundleReport) -> list[tuple[str, list[str]]]:
    """Returns the matrix's head: a line for each dimension, then the rest of the goldens' names."""
    names = [cell.golden for cell in report.matrix[0].cells] if report.matrix else []
    dims = {golden.name: golden.dims for golden in report.bundle.manifest.goldens}
    keys = dict.fromkeys(key for golden_dims in dims.values() for key in golden_dims)
    lines = [(key, [str(dims.get(name, {}).get(key, "")) for name in names]) for key in keys]
    rest = [_without_sizes(name, dims.get(name, {})) for name in names]
    return [*lines, ("probe" if lines else "golden", rest)]


def _without_sizes(name: str, dims: Mapping[str, int]) -> str:
    sizes = "-".join(f"{key}{size}" for key, size in dims.items())
    return name.removeprefix(sizes).removeprefix("-") if sizes else name


def tone(cell: Cell) -> str:
    """Returns the CSS class of a cell, by the share of its tolerance."""
    if cell.status != "passed":
        return cell.status
    share = cell.share or 0.0
    return f"t{next((at for at, edge in enumerate((0.1, 0.25, 0.5, 0.75)) if share <= edge), 4)}"


def cell_title(cell: Cell) -> str:
    """Returns the tooltip of a cell."""
    result = cell.result
    if result is None:
        return f"{cell.golden}: no answer, {cell.reason}"
    by = f" by {result.statistic}" if result.statistic else ""
    share = share_text(result.strain)
    used = f"{result.output} of {cell.golden} used {share} of what is allowed{by}"
    return f"{used}; {cell.reason}" if cell.reason else used


def ranking(report: BundleReport, markup: Any) -> dict[str, Any]:
    """Returns a strip for each row of the ranking, and their axis; `markup` marks safe HTML."""
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
