"""The tables of a comparison, for people: what is not there to be read is not printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isthmus.bundle_diff.cross_check import CrossCheck, share
from isthmus.bundle_diff.findings import AREAS, SEVERITIES, Change, counted, shortened
from isthmus.bundle_diff.graph import GraphDiff
from isthmus.document import Table, number
from isthmus.proof.verify_report import needed_of

if TYPE_CHECKING:
    from isthmus.bundle_diff.report import DiffReport

__all__ = ["SHOWN_CHANGES", "SHOWN_LINES", "tables_of"]

SHOWN_CHANGES = 15
"""Changes of an area that are printed, the gravest first, unless all are asked for."""
SHOWN_LINES = 40
"""Lines of an artifact's graph that are printed, unless all are asked for."""


def tables_of(report: DiffReport) -> tuple[Table, ...]:
    """What was compared, what changed area by area, and what could not be compared."""
    tables = [_overview(report)]
    for area in AREAS:
        changes = [change for change in report.changes if change.area == area]
        told = [change for change in changes if not _in_numbers(change)]
        for subject in dict.fromkeys(one.subject for one in told):
            title = f"{area.capitalize()} of {subject or 'the bundle'}"
            tables.append(_changes(report, title, [one for one in told if one.subject == subject]))
        if area == "graph":
            tables += [
                table for graph in report.graphs for table in _graph(graph, full=report.full)
            ]
        if area == "errors":
            tables += _accuracy(report)
        if area == "crossing":
            tables += _cross_checks(report.crossings)
        if area == "speed":
            tables += _speeds(report)
    if report.not_compared:
        rows = tuple((one.area, one.subject, one.reason) for one in report.not_compared)
        tables.append(Table("Not compared", ("area", "of", "why"), rows, prose=True))
    return tuple(tables)


def _in_numbers(change: Change) -> bool:
    """Whether a table of numbers tells it: the distances, the crossing's outputs, the speed."""
    if change.area == "errors":
        return change.what.startswith("distance of ")
    return change.area == "speed" or (change.area == "crossing" and " of golden " in change.what)


def _overview(report: DiffReport) -> Table:
    failing = {(failure.area, failure.subject) for failure in report.failures}
    rows, marks = [], []
    for area in AREAS:
        for one in report.compared:
            if one.area == area:
                rows.append((area, one.subject, one.result))
                bad = (area, one.subject) in failing or (
                    not one.subject and any(found == area for found, _ in failing)
                )
                marks.append(False if bad else True if one.equal else None)
    return Table("B against A", ("area", "of", "result"), tuple(rows), marks=tuple(marks))


def _changes(report: DiffReport, title: str, changes: Sequence[Change]) -> Table:
    ordered = sorted(changes, key=lambda change: SEVERITIES.index(change.severity))
    shown = ordered if report.full else ordered[:SHOWN_CHANGES]
    marks: list[bool | None] = []
    rows: list[tuple[str, ...]] = []
    for one in shown:
        what = f"{one.what}: {one.why}" if one.why else one.what
        rows.append((what, one.before, one.after, one.severity))
        bad = one in report.failures
        marks.append(False if bad else True if one.severity == "better" else None)
    if len(shown) < len(ordered):
        more = f"{len(ordered) - len(shown)} more, with --full or --json"
        rows.append((more, "", "", ""))
        marks.append(None)
    return Table(title, ("what", "A", "B", "severity"), tuple(rows), marks=tuple(marks), prose=True)


def _graph(graph: GraphDiff, *, full: bool) -> list[Table]:
    """The lines that differ, each with where it stands."""
    tables = []
    room = 10**9 if full else SHOWN_LINES
    hidden = graph.left_out
    for one in graph.differing:
        lines = one.lines[: max(room, 0)]
        room -= len(one.lines)
        hidden += len(one.lines) - len(lines)
        if not lines:
            continue
        rows = [("", "...") if mark == "@" else (mark, text) for mark, text in lines]
        title = f" ({one.title})" if one.title else ""
        several = f", {counted(len(one.paths), 'submodule')} alike" if len(one.paths) > 1 else ""
        tables.append(
            Table(
                f"{graph.artifact}: {shortened(one.paths, 2)}{title}{several}",
                ("", "code"),
                tuple(rows),
                marks=tuple({"-": False, "+": True}.get(mark) for mark, _ in rows),
                folded=True,
                prose=True,
            )
        )
    if hidden:
        note = f"{hidden} more lines differ in other submodules; --full or --json shows them"
        tables.append(Table(f"{graph.artifact}: the rest", ("", "code"), (("", note),), prose=True))
    return tables


def _accuracy(report: DiffReport) -> list[Table]:
    if not report.accuracy:
        return []
    columns = ("by", "output", "A", "B", "B/A", "x eager", "verdict")
    rows = []
    for one in report.accuracy:
        own = one.after / one.own_after if one.after is not None and one.own_after else None
        numbers = (number(value) for value in (one.before, one.after, one.ratio, own))
        rows.append((one.name, one.output, *numbers, one.verdict))
    return [
        Table(
            f"RMS error to float64, over {report.accuracy[0].over}",
            columns,
            tuple(rows),
            marks=tuple(
                {"worse": False, "better": True}.get(one.verdict) for one in report.accuracy
            ),
            numeric=frozenset(columns[2:-1]),
        )
    ]


def _cross_checks(crossings: Sequence[CrossCheck]) -> list[Table]:
    ran = [crossing for crossing in crossings if crossing.results]
    if not ran:
        return []
    columns = (
        "B's engine",
        "verdict",
        "max abs",
        "x A's own",
        "of allowed",
        "would pass",
        "vs A here",
        "worst at",
    )
    rows = []
    marks = []
    for one in ran:
        nearest = one.worst
        for result in one.failures or ((nearest,) if nearest is not None else ()):
            rows.append(
                (
                    one.name,
                    "passed" if result else "failed",
                    number(result.max_abs),
                    number(result.noise_units),
                    share(result.strain),
                    needed_of(result),
                    number(one.vs_before),
                    f"{result.output} of {result.golden}",
                )
            )
            marks.append(bool(result))
    return [
        Table(
            "The crossing: B on A's goldens, judged by A's noise",
            columns,
            tuple(rows),
            marks=tuple(marks),
            numeric=frozenset(columns[2:-1]),
        )
    ]


def _speeds(report: DiffReport) -> list[Table]:
    ran = [speed for speed in report.speeds if speed.interval is not None]
    if not ran:
        return []
    columns = ("engine", "A", "B", "B/A", "interval", "load", "first call", "peak MB", "verdict")
    rows = []
    for one in ran:
        sides = (one.before, one.after)
        interval = one.interval
        assert interval is not None
        medians = [row.summary.median_ms if row.summary else None for row in sides]
        loads = [number(row.load_ms) for row in sides]
        firsts = [number(row.first_call_ms) for row in sides]
        peaks = [f"{(row.peak_rss_bytes or 0) / 1e6:.0f}" for row in sides]
        rows.append(
            (
                one.name,
                *(number(value, 4) for value in medians),
                f"{interval.ratio:.3f}",
                f"{interval.low:.3f} to {interval.high:.3f}",
                *(" -> ".join(pair) for pair in (loads, firsts, peaks)),
                one.verdict,
            )
        )
    return [
        Table(
            f"Speed: median milliseconds a call, inputs of golden {ran[0].golden}",
            columns,
            tuple(rows),
            marks=tuple({"B faster": True, "B slower": False}.get(one.verdict) for one in ran),
            numeric=frozenset(columns[1:-1]),
        )
    ]
