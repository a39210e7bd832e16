"""Prints results to the console and as JSON, Markdown and JUnit XML.

A result judges itself and describes what to print as a `Document`: context first, then tables, then
the verdict. The functions here only print documents.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol
from xml.etree import ElementTree

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A table for people."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[bool | None, ...] = ()
    """The verdict of each row: True, False, or None for none; empty when no row is judged."""
    numeric: frozenset[str] = frozenset()
    """The columns that are aligned to the right."""
    folded: bool = False
    """True to fold the table in Markdown behind its title."""
    prose: bool = False
    """True when cells hold sentences, which a narrow terminal wraps."""


@dataclass(frozen=True)
class Case:
    """A test case for JUnit."""

    name: str
    seconds: float = 0.0
    failure: str = ""
    skipped: str = ""
    output: str = ""


@dataclass(frozen=True)
class Document:
    """Everything that a report prints; it is itself `Reportable`."""

    title: str
    schema: str
    """The name of the JSON document's schema, e.g. "isthmus-verify"."""
    schema_version: int
    context: Mapping[str, str]
    tables: tuple[Table, ...]
    passed: bool
    verdict: str
    rows: tuple[Mapping[str, Any], ...]
    """The rows of the JSON document."""
    cases: tuple[Case, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the JSON document."""
    lead: str = ""
    """The line that Markdown prints below the title instead of the verdict at the end."""

    def document(self) -> Document:
        """Returns the document itself."""
        return self


class Reportable(Protocol):
    """A result that can be printed."""

    def document(self) -> Document:
        """Returns what to print."""
        ...


def number(value: float | None, digits: int = 3) -> str:
    """Formats a number for a cell: "0", "1.53e-07", "0.25", "-" for None."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.{digits}g}"


def to_json(report: Reportable, *, indent: int | None = 2) -> str:
    """Returns a JSON document with the members schema, schema_version, context, rows and so on.

    NaN and infinity, which JSON lacks, are written as the strings "nan", "inf" and "-inf".
    """
    document = report.document()
    data: dict[str, Any] = {
        "schema": document.schema,
        "schema_version": document.schema_version,
        "context": dict(document.context),
        "rows": list(document.rows),
        **document.extra,
        "notes": list(document.notes),
        "passed": document.passed,
        "verdict": document.verdict,
    }
    return json.dumps(_plain(data), indent=indent, allow_nan=False)


def to_markdown(report: Reportable) -> str:
    """Returns headings and tables in GitHub's Markdown, for a pull request or a job summary."""
    document = report.document()
    lines = [f"## {_markdown(document.title)}", ""]
    lines += [f"**{_markdown(document.lead)}**", ""] if document.lead else []
    lines += [f"- {name}: {_markdown(value)}" for name, value in document.context.items()]
    for table in document.tables:
        if table.folded:
            lines += ["", f"<details><summary>{_markdown(table.title)}</summary>", ""]
        else:
            lines += ["", f"### {table.title}", ""]
        lines.append(_markdown_row(table.columns))
        lines.append(
            _markdown_row(["-:" if name in table.numeric else "-" for name in table.columns])
        )
        lines += [_markdown_row(row) for row in table.rows]
        lines += ["", "</details>"] if table.folded else []
    if document.notes:
        lines += ["", *[f"- {_markdown(note)}" for note in document.notes]]
    lines += [""] if document.lead else ["", f"**{_markdown(document.verdict)}**", ""]
    return "\n".join(lines)


def to_junit(report: Reportable) -> str:
    """Returns a JUnit XML document."""
    document = report.document()
    failures = sum(bool(case.failure) for case in document.cases)
    skipped = sum(bool(case.skipped) for case in document.cases)
    counts = {
        "tests": str(len(document.cases)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(skipped),
        "time": f"{sum(case.seconds for case in document.cases):.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": document.schema, **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in document.context.items():
        ElementTree.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    for case in document.cases:
        element = ElementTree.SubElement(
            suite,
            "testcase",
            classname=document.schema,
            name=_xml(case.name),
            time=f"{case.seconds:.3f}",
        )
        if case.failure:
            failure = ElementTree.SubElement(
                element, "failure", message=_xml(case.failure.splitlines()[0])
            )
            failure.text = _xml(case.failure)
        elif case.skipped:
            ElementTree.SubElement(element, "skipped", message=_xml(case.skipped))
        if case.output:
            ElementTree.SubElement(element, "system-out").text = _xml(case.output)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def print_report(report: Reportable, console: Console | None = None) -> None:
    """Prints context, tables and verdict to the console."""
    from rich.console import Console
    from rich.text import Text

    if console is None:
        console = Console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(width=160)  # a file or a pipe
    document = report.document()
    console.print(Text(document.title, style="bold"))
    for name, value in document.context.items():
        console.print(Text(f"  {name}: {value}", style="dim"))
    for table in document.tables:
        console.print()
        grid = _grid(table)
        # A narrow terminal gets a column for each row, because narrow cells break words.
        unbounded = console.options.update_width(10_000)
        needed = console.measure(grid, options=unbounded).maximum
        fits_upright = not table.prose and len(table.rows) < len(table.columns)
        if needed > console.width and fits_upright:
            grid = _grid(table, upright=True)
        console.print(grid)
    for note in document.notes:
        console.print(Text(f"note: {note}"))
    console.print(Text(document.verdict, style="bold green" if document.passed else "bold red"))


def to_text(report: Reportable, width: int = 180) -> str:
    """Returns the console's text without colours, for messages and logs."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    print_report(report, Console(file=out, width=width, no_color=True, force_terminal=False))
    return out.getvalue()


def _grid(table: Table, *, upright: bool = False) -> RichTable:
    """Returns the table for a terminal; `upright` exchanges its rows and columns."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(title=table.title, title_justify="left", title_style="bold")
    colours = {True: "green", False: "red", None: ""}
    styles = [colours[mark] for mark in table.marks or (None,) * len(table.rows)]
    if upright:
        grid.add_column(Text(table.columns[0]), overflow="fold")
        for row, style in zip(table.rows, styles, strict=True):
            grid.add_column(Text(row[0]), style=style, overflow="fold")
        for at, column in enumerate(table.columns[1:], start=1):
            grid.add_row(Text(column), *[Text(row[at]) for row in table.rows])
        return grid
    for column in table.columns:
        justify: Literal["left", "right"] = "right" if column in table.numeric else "left"
        grid.add_column(Text(column), justify=justify, overflow="fold")
    for row, style in zip(table.rows, styles, strict=True):
        grid.add_row(*[Text(cell) for cell in row], style=style)
    return grid


def _markdown_row(cells: tuple[str, ...] | list[str]) -> str:
    escaped = [_markdown(cell.replace("\\", "\\\\").replace("|", "\\|")) for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _markdown(text: str) -> str:
    """Returns the text as one line, with HTML escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def _xml(text: str) -> str:
    """Returns the text without the control characters that XML 1.0 excludes."""
    return "".join(
        char for char in text if char in "\t\n\r" or (char >= " " and char not in "\ufffe\uffff")
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
