"""What commands print: progress and errors on standard error, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from isthmus.bundle.atomic_write import write_whole
from isthmus.errors import Error, exit_code

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.document import Reportable


@contextmanager
def work() -> Iterator[Callable[[str], None]]:
    """Shows progress on standard error, and turns isthmus's errors into a message and a code."""
    console = Console(stderr=True)
    try:
        if console.is_terminal:
            with console.status("") as status:

                def show(line: str) -> None:
                    status.update(escape(line))

                yield show
        else:

            def write(line: str) -> None:
                console.print(f"  {escape(line)}", style="dim", soft_wrap=True)

            yield write
    except Error as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_code(error)) from None
    except ImportError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(4) from None


def print_report(
    report: Reportable, as_json: bool, junit: Path | None, markdown: Path | None
) -> None:
    """A report in the formats that were asked for."""
    from isthmus.document import print_report as show
    from isthmus.document import to_json, to_junit, to_markdown

    if junit is not None:
        write_whole(junit, to_junit(report))
    if markdown is not None:
        write_whole(markdown, to_markdown(report))
    if as_json:
        print(to_json(report))
    else:
        show(report)


def words(text: str) -> list[str]:
    """Words between commas."""
    return [one.strip() for one in text.split(",") if one.strip()]


def print_formats(bundle: Bundle, console: Console) -> None:
    """A row for each format that was asked for."""
    table = Table("format", "result", "time", "size", "made by", "why not", "what to try")
    for one in bundle.results:
        where = f"\n({one.where})" if one.where else ""
        table.add_row(
            one.label,
            "[green]proven[/green]" if one.ok else "[red]failed[/red]",
            f"{one.seconds:.1f} s",
            f"{one.size / 1e6:.1f} MB" if one.ok else "-",
            one.strategy or "-",
            escape(one.reason + where),
            escape(one.advice),
        )
    console.print(table)


def print_bundle(bundle: Bundle, as_json: bool) -> None:
    """What an export made, and how."""
    from isthmus.bundle.manifest_json import to_json

    if as_json:
        document: dict[str, Any] = {"path": str(bundle.path), "manifest": to_json(bundle.manifest)}
        document["formats"] = [
            {
                "format": one.format,
                "precision": one.precision,
                "ok": one.ok,
                "seconds": one.seconds,
                "size": one.size,
                "strategy": one.strategy,
                "reason": one.reason,
                "where": one.where,
                "advice": one.advice,
            }
            for one in bundle.results
        ]
        print(json.dumps(document, indent=2))
        return
    console = Console()
    manifest = bundle.manifest
    size = sum(entry.size for entry in bundle.files())
    console.print(
        f"[bold]{escape(str(bundle.path))}[/bold]: {escape(manifest.name)}, "
        f"{len(manifest.goldens)} goldens, {size / 1e6:.1f} MB"
    )
    for artifact in manifest.artifacts:
        table = Table("strategy", "", "why", "where", title=f"How {artifact.name} was made")
        for one in artifact.decisions:
            verdict = "chosen" if one.accepted else "refused"
            table.add_row(one.strategy, verdict, escape(one.reason), escape(one.where))
        console.print(table)
        for hazard in artifact.hazards:
            where = f" ({hazard.where})" if hazard.where else ""
            console.print(f"{hazard.severity}: {escape(hazard.message + where)}", highlight=False)
            if hazard.remedy and hazard.severity != "info":
                console.print(f"  remedy: {escape(hazard.remedy)}", highlight=False)
    if len(bundle.results) > 1 or any(not one.ok for one in bundle.results):
        print_formats(bundle, console)
    console.print(f"Prove it anywhere: isthmus-run verify {escape(str(bundle.path))}")
