"""Commands that say whether it is still the model: verify, replay, report, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from isthmus.cli.app import app
from isthmus.cli.options import (
    AllowNative,
    BundlePath,
    Device,
    Json,
    ModelOption,
    OpLibrary,
    Threads,
    Trust,
)
from isthmus.cli.output import print_report, work


@app.command()
def verify(
    bundle: BundlePath,
    model: ModelOption = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="eager, torch.jit, torchscript, onnxruntime, ...; all by default."),
    ] = None,
    device: Device = None,
    artifact: Annotated[str | None, typer.Option(help="Only this artifact.")] = None,
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    rank: Annotated[
        bool, typer.Option("--rank", help="Order all by their distance to eager in float64.")
    ] = False,
    explain: Annotated[
        bool | None,
        typer.Option(
            "--explain/--no-explain",
            help="Name the first submodule that diverges; needs --model, and is the default when "
            "an engine fails.",
        ),
    ] = None,
    repro: Annotated[
        Path | None, typer.Option(help="Folder for the explanation's minimal repro.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """Proves a bundle: every way of running it, on each device, over all goldens."""
    with work() as say:
        from isthmus.proof.verify import verify as run

        report = run(
            bundle,
            model,
            engine or None,
            device or None,
            artifact=artifact,
            threads=threads,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            rank=rank,
            explain=explain,
            repro=repro,
            progress=say,
        )
    print_report(report, as_json, junit, markdown)
    raise typer.Exit(0 if report else 1)


@app.command()
def replay(
    recording: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where a program recorded its calls.")
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle; where it lay at the recording by default.")
    ] = None,
    model: ModelOption = None,
    expect: Annotated[
        Path | None,
        typer.Option(help="The input that was expected, by name: .npz or .safetensors."),
    ] = None,
    call: Annotated[
        str | None, typer.Option(help="The recorded call that --expect is for; the first.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="torch.jit, torchscript, onnxruntime, ...; all by default."),
    ] = None,
    calls: Annotated[int, typer.Option(help="Replay the first so many.")] = 100,
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """Says who is wrong, the model, an engine, the program or its input, from recorded calls."""
    with work() as say:
        from isthmus.proof.replay import replay as run

        report = run(
            recording,
            bundle=bundle,
            model=model,
            expect=expect,
            call=call,
            engines=engine or None,
            calls=calls,
            threads=threads,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            progress=say,
        )
    print_report(report, as_json, junit, markdown)
    raise typer.Exit(0 if report else 1)


@app.command()
def report(
    bundle: BundlePath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The HTML file to write.")
    ] = None,
    model: ModelOption = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="eager, torch.jit, torchscript, onnxruntime, ...; all by default."),
    ] = None,
    device: Device = None,
    artifact: Annotated[str | None, typer.Option(help="Only this artifact.")] = None,
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Time it, too.")] = True,
    rounds: Annotated[int, typer.Option(help="Turns of each row of the timings.")] = 15,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """Proof, error by layer, timings, sizes, hazards: HTML, Markdown, JSON, JUnit."""
    with work() as say:
        from isthmus.bundle.atomic_write import write_atomically
        from isthmus.document import to_json, to_junit, to_markdown
        from isthmus.reports.bundle_report import report as run

        if output is not None:  # told before minutes of proof, not after
            from isthmus.reports.html import check_jinja2

            check_jinja2()
        found = run(
            bundle,
            model,
            engines=engine or None,
            devices=device or None,
            artifact=artifact,
            threads=threads,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            rounds=rounds,
            bench=bench,
            progress=say,
        )
        if output is not None:
            found.write_html(output)
        if junit is not None:
            write_atomically(junit, to_junit(found))
        if markdown is not None:
            write_atomically(markdown, to_markdown(found))
    if as_json:
        print(to_json(found))
    elif output is None and junit is None and markdown is None:
        print_report(found, False, None, None)
    else:  # who asked for a file gets the verdict here, and the rest there
        console = Console()
        console.print(found.verdict, style="bold green" if found else "bold red", markup=False)
        for file in (output, junit, markdown):
            if file is not None:
                console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found else 1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The bundle before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The bundle after.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(help="torchscript, onnxruntime, ...; all by default."),
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="Only this artifact, of either.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N, for what is run.")] = "cpu",
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Run both, and B on A's goldens.")
    ] = True,
    bench: Annotated[bool, typer.Option("--bench", help="Also time both, taking turns.")] = False,
    rounds: Annotated[int, typer.Option(help="Turns of each, with --bench.")] = 30,
    fail_on: Annotated[
        str, typer.Option(help="The least that fails: breaking, worse or changed.")
    ] = "worse",
    full: Annotated[bool, typer.Option("--full", help="Print everything, however long.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """What changed between two bundles, and whether B is still the model that A is."""
    with work() as say:
        from isthmus.bundle_diff import diff as compare

        report = compare(
            a,
            b,
            engines=engine or None,
            artifact=artifact,
            device=device,
            threads=threads,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            run=run,
            bench=bench,
            rounds=rounds,
            fail_on=fail_on,  # type: ignore[arg-type]
            full=full,
            progress=say,
        )
    print_report(report, as_json, junit, markdown)
    raise typer.Exit(0 if report else 1)
