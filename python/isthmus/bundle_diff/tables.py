"""The tables of a comparison, for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from isthmus.bundle_diff.accuracy import Accuracy
from isthmus.bundle_diff.cross_check import CrossCheck, share
from isthmus.bundle_diff.findings import (
    AREAS,
    Area,
    Change,
    Compared,
    NotCompared,
    counted,
    gravest_first,
    shortened,
)
from isthmus.bundle_diff.graph import GraphDiff
from isthmus.bundle_diff.speed import Speed
from isthmus.document import Table, number
from isthmus.proof.verify_report import needed_of

__all__ = [
    "accuracy_tables",
    "change_tables",
    "cross_check_tables",
    "graph_tables",
    "not_compared_tables",
    "overview_table",
    "speed_tables",
]

SHOWN_CHANGES = 15
"""The most changes of an area that are printed, the gravest first, without `full`."""
SHOWN_LINES = 40
"""The most lines of an artifact's graph that are printed without `full`."""


def overview_table(compared: Sequence[Compared], failures: Sequence[Change]) -> Table:
    """Returns the result of each comparison that was made."""
    failing = {(failure.area, failure.subject) for failure in failures}
    areas = {failure.area for failure in failures}
    rows, marks = [], []
    for area in AREAS:
        for entry in compared:
            if entry.area == area:
                rows.append((area, entry.subject, entry.result))
                bad = (area, entry.subject) in failing or (not entry.subject and area in areas)
                marks.append(False if bad else True if entry.equal else None)
    return Table("B against A", ("area", "of", "result"), tuple(rows), marks=tuple(marks))


def change_tables(
    area: Area, changes: Sequence[Change], failures: Collection[Change], *, full: bool
) -> list[Table]:
    """Returns a table of the changes of each subject, without those in a table of numbers."""
    listed = [change for change in changes if not _is_in_numbers(change)]
    return [
        _change_table(
            f"{area.capitalize()} of {subject or 'the bundle'}",
            [change for change in listed if change.subject == subject],
            failures,
            full=full,
        )
        for subject in dict.fromkeys(change.subject for change in listed)
    ]


def _is_in_numbers(change: Change) -> bool:
    """Returns True for distances, outputs of the cross-check, and speed."""
    if change.area == "errors":
        return change.what.startswith("distance of ")
    return change.area == "speed" or (change.area == "cross-check" and " of golden " in change.what)


def _change_table(
    title: str, changes: Sequence[Change], failures: Collection[Change], *, full: bool
) -> Table:
    ordered = gravest_first(changes)
    shown = ordered if full else ordered[:SHOWN_CHANGES]
    marks: list[bool | None] = []
    rows: list[tuple[str, ...]] = []
    for change in shown:
        what = f"{change.what}: {change.why}" if change.why else change.what
        rows.append((what, change.before, change.after, change.severity))
        bad = change in failures
        marks.append(False if bad else True if change.severity == "better" else None)
    if len(shown) < len(ordered):
        more = f"{len(ordered) - len(shown)} more, with --full or --json"
        rows.append((more, "", "", ""))
        marks.append(None)
    return Table(title, ("what", "A", "B", "severity"), tuple(rows), marks=tuple(marks), prose=True)


def not_compared_tables(not_compared: Sequence[NotCompared]) -> list[Table]:
    """Returns the comparisons that could not be made."""
    rows = tuple((entry.area, entry.subject, entry.reason) for entry in not_compared)
    return [Table("Not compared", ("area", "of", "why"), rows, prose=True)] if rows else []


def graph_tables(graphs: Sequence[GraphDiff], *, full: bool) -> list[Table]:
    """Returns the lines that differ in each graph, with the submodules that they belong to."""
    return [table for graph in graphs for table in _graph(graph, full=full)]


def _graph(graph: GraphDiff, *, full: bool) -> list[Table]:
    tables = []
    room = 10**9 if full else SHOWN_LINES
    hidden = graph.left_out
    for part in graph.differing:
        lines = part.lines[: max(room, 0)]
        room -= len(part.lines)
        hidden += len(part.lines) - len(lines)
        if not lines:
            continue
        rows = [("", "...") if mark == "@" else (mark, text) for mark, text in lines]
        title = f" ({part.title})" if part.title else ""
        alike = f", {counted(len(part.paths), 'submodule')} alike" if len(part.paths) > 1 else ""
        tables.append(
            Table(
                f"{graph.artifact}: {shortened(part.paths, 2)}{title}{alike}",
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


def accuracy_tables(accuracy: Sequence[Accuracy]) -> list[Table]:
    """Returns the distances to float64, before and after."""
    if not accuracy:
        return []
    columns = ("by", "output", "A", "B", "B/A", "x eager", "verdict")
    rows = []
    for row in accuracy:
        own = row.after / row.own_after if row.after is not None and row.own_after else None
        numbers = (number(value) for value in (row.before, row.after, row.ratio, own))
        rows.append((row.name, row.output, *numbers, row.verdict))
    title = f"RMS error to float64, over {accuracy[0].over}"
    marks = [{"worse": False, "better": True}.get(row.verdict) for row in accuracy]
    return [_numbers_table(title, columns, rows, marks)]


def _numbers_table(
    title: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    marks: Sequence[bool | None],
    first: int = 2,
) -> Table:
    """Returns a table whose columns are numbers, from the first of them to the one before last."""
    numeric = frozenset(columns[first:-1])
    return Table(title, columns, tuple(rows), marks=tuple(marks), numeric=numeric)


def cross_check_tables(cross_checks: Sequence[CrossCheck]) -> list[Table]:
    """Returns the worst results of B's engines on A's goldens."""
    if not cross_checks:
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
    for check in cross_checks:
        nearest = check.worst
        for result in check.failures or ((nearest,) if nearest is not None else ()):
            rows.append(
                (
                    check.name,
                    "passed" if result else "failed",
                    number(result.max_abs),
                    number(result.noise_units),
                    share(result.strain),
                    needed_of(result),
                    number(check.vs_before),
                    f"{result.output} of {result.golden}",
                )
            )
            marks.append(bool(result))
    title = "Cross-check: B on A's goldens, judged by A's noise"
    return [_numbers_table(title, columns, rows, marks)]


def speed_tables(speeds: Sequence[Speed]) -> list[Table]:
    """Returns the timings of both bundles."""
    ran = [speed for speed in speeds if speed.interval is not None]
    if not ran:
        return []
    columns = ("engine", "A", "B", "B/A", "interval", "load", "first call", "peak MB", "verdict")
    rows = []
    for speed in ran:
        sides = (speed.before, speed.after)
        interval = speed.interval
        assert interval is not None
        medians = [row.summary.median_ms if row.summary else None for row in sides]
        loads = [number(row.load_ms) for row in sides]
        firsts = [number(row.first_call_ms) for row in sides]
        peaks = [f"{(row.peak_rss_bytes or 0) / 1e6:.0f}" for row in sides]
        rows.append(
            (
                speed.name,
                *(number(value, 4) for value in medians),
                f"{interval.ratio:.3f}",
                f"{interval.low:.3f} to {interval.high:.3f}",
                *(" -> ".join(pair) for pair in (loads, firsts, peaks)),
                speed.verdict,
            )
        )
    title = f"Speed: median milliseconds a call, inputs of golden {ran[0].golden}"
    marks = [{"B faster": True, "B slower": False}.get(speed.verdict) for speed in ran]
    return [_numbers_table(title, columns, rows, marks, first=1)]
