"""Prints what commands give: progress and errors to standard error, results to standard output."""

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

from isthmus.bundle.atomic_write import write_atomically
from isthmus.errors import Error, exit_code

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.format_result import FormatResult
    from isthmus.bundle.manifest import Artifact
    from isthmus.document import Reportable


@contextmanager
def work() -> Iterator[Callable[[str], None]]:
    """Shows progress on standard error, and turns errors into a message and an exit code."""
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
    """Prints a report in the formats that were asked for."""
    from isthmus.document import print_report as show
    from isthmus.document import to_json, to_junit, to_markdown

    if junit is not None:
        write_atomically(junit, to_junit(report))
    if markdown is not None:
        write_atomically(markdown, to_markdown(report))
    if as_json:
        print(to_json(report))
    else:
        show(report)


def words(text: str) -> list[str]:
    """Returns the words between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def print_formats(bundle: Bundle, console: Console) -> None:
    """Prints a row for each format that was asked for."""
    table = Table("format", "result", "time", "size", "made by", "why not", "what to try")
    for result in bundle.results:
        where = f"\n({result.where})" if result.where else ""
        table.add_row(
            result.label,
            _verdict(result),
            f"{result.seconds:.1f} s",
            f"{result.size / 1e6:.1f} MB" if result.ok else "-",
            result.strategy or "-",
            escape(result.reason + where),
            escape(result.advice),
        )
    console.print(table)


def _verdict(result: FormatResult) -> str:
    if not result.ok:
        return "[red]failed[/red]"
    sizes = f" for {escape(result.sizes)} only" if result.sizes else ""
    return f"[green]proven[/green]{sizes}"


def print_proofs(artifact: Artifact, console: Console) -> None:
    """Prints a row for each engine that was tried on the artifact."""
    if not artifact.proofs:
        return
    table = Table(
        "engine", "on", "goldens", "runtime", "note", title=f"Engines for {artifact.name}"
    )
    for proof in artifact.proofs:
        verdict = "[green]passed[/green]" if proof.passed else "[red]FAILED[/red]"
        runtime, note = escape(proof.runtime), escape(proof.note)
        table.add_row(proof.engine, proof.device, verdict, runtime, note)
    console.print(table)


def print_bundle(bundle: Bundle, as_json: bool) -> None:
    """Prints what an export wrote, and how."""
    from isthmus.bundle.manifest_json import to_json

    if as_json:
        document: dict[str, Any] = {"path": str(bundle.path), "manifest": to_json(bundle.manifest)}
        document["formats"] = [
            {
                "format": result.format,
                "precision": result.precision,
                "ok": result.ok,
                "seconds": result.seconds,
                "size": result.size,
                "strategy": result.strategy,
                "sizes": result.sizes,
                "reason": result.reason,
                "where": result.where,
                "advice": result.advice,
            }
            for result in bundle.results
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
        for decision in artifact.decisions:
            verdict = "chosen" if decision.accepted else "refused"
            table.add_row(
                decision.strategy, verdict, escape(decision.reason), escape(decision.where)
            )
        console.print(table)
        print_proofs(artifact, console)
        for hazard in artifact.hazards:
            where = f" ({hazard.where})" if hazard.where else ""
            console.print(f"{hazard.severity}: {escape(hazard.message + where)}", highlight=False)
            if hazard.remedy and hazard.severity != "info":
                console.print(f"  remedy: {escape(hazard.remedy)}", highlight=False)
    if len(bundle.results) > 1 or any(not result.ok for result in bundle.results):
        print_formats(bundle, console)
    console.print(f"Prove it anywhere: isthmus-run verify {escape(str(bundle.path))}")
