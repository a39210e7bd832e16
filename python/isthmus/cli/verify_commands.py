"""Commands that compare a bundle with its model: verify, replay, report, diff."""

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
    Engine,
    Json,
    Junit,
    Markdown,
    ModelOption,
    NativeEngine,
    OnlyArtifact,
    OpLibrary,
    Threads,
    Trust,
    run_options,
)
from isthmus.cli.output import print_report, work


@app.command()
def verify(
    bundle: BundlePath,
    model: ModelOption = None,
    engine: Engine = None,
    device: Device = None,
    artifact: OnlyArtifact = None,
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    rank: Annotated[
        bool, typer.Option("--rank", help="Order all rows by their distance to eager in float64.")
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
    junit: Junit = None,
    markdown: Markdown = None,
    as_json: Json = False,
) -> None:
    """Proves a bundle: every engine, on each device, over all goldens."""
    with work() as say:
        from isthmus.proof.verify import verify_bundle

        options = run_options(
            say, trust, allow_native, op_library,
            engines=engine, devices=device, artifact=artifact, threads=threads,
        )  # fmt: skip
        report = verify_bundle(bundle, options, model, rank=rank, explain=explain, repro=repro)
    print_report(report, as_json, junit, markdown)
    raise typer.Exit(0 if report else 1)


@app.command()
def replay(
    recording: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where a program recorded its calls.")
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle; by default the path that was recorded.")
    ] = None,
    model: ModelOption = None,
    expect: Annotated[
        Path | None,
        typer.Option(help="The input that was expected, by name: .npz or .safetensors."),
    ] = None,
    call: Annotated[
        str | None,
        typer.Option(help="The call that --expect is for; by default the first."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="torch.jit, torchscript, onnxruntime, ...; all by default."),
    ] = None,
    calls: Annotated[
        int, typer.Option(help="The number of calls to replay, from the first on.")
    ] = 100,
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    junit: Junit = None,
    markdown: Markdown = None,
    as_json: Json = False,
) -> None:
    """Says from recorded calls what is wrong: the model, an engine, the program or its input."""
    with work() as say:
        from isthmus.proof.replay import replay_recording

        options = run_options(say, trust, allow_native, op_library, engines=engine, threads=threads)
        report = replay_recording(
            recording, options, bundle=bundle, model=model, expect=expect, call=call, calls=calls
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
    engine: Engine = None,
    device: Device = None,
    artifact: OnlyArtifact = None,
    threads: Threads = None,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Time it, too.")] = True,
    rounds: Annotated[int, typer.Option(help="Turns of each row of the timings.")] = 15,
    junit: Junit = None,
    markdown: Markdown = None,
    as_json: Json = False,
) -> None:
    """Reports proof, error by layer, timings, sizes, hazards: HTML, Markdown, JSON, JUnit."""
    with work() as say:
        from isthmus.bundle.atomic_write import write_atomically
        from isthmus.document import to_json, to_junit, to_markdown
        from isthmus.reports.bundle_document import document_of
        from isthmus.reports.bundle_report import report_bundle
        from isthmus.reports.html import check_jinja2, write_html

        if output is not None:  # fail before minutes of verification
            check_jinja2()
        options = run_options(
            say, trust, allow_native, op_library,
            engines=engine, devices=device, artifact=artifact, threads=threads,
        )  # fmt: skip
        result = report_bundle(bundle, options, model, rounds=rounds, bench=bench)
        document = document_of(result)
        if output is not None:
            write_html(result, output)
        if junit is not None:
            write_atomically(junit, to_junit(document))
        if markdown is not None:
            write_atomically(markdown, to_markdown(document))
    if as_json:
        print(to_json(document))
    elif output is None and junit is None and markdown is None:
        print_report(document, False, None, None)
    else:  # the files hold the report, the console the verdict
        console = Console()
        console.print(result.verdict, style="bold green" if result else "bold red", markup=False)
        for file in (output, junit, markdown):
            if file is not None:
                console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if result else 1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The bundle before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The bundle after.")],
    engine: NativeEngine = None,
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
    junit: Junit = None,
    markdown: Markdown = None,
    as_json: Json = False,
) -> None:
    """Tells what changed between two bundles, and whether B still gives A's answers."""
    with work() as say:
        from isthmus.bundle_diff.compare import diff_bundles

        options = run_options(
            say, trust, allow_native, op_library,
            engines=engine, devices=[device], artifact=artifact, threads=threads,
        )  # fmt: skip
        report = diff_bundles(
            a,
            b,
            options,
            run=run,
            bench=bench,
            rounds=rounds,
            fail_on=fail_on,  # type: ignore[arg-type]
            full=full,
        )
    print_report(report, as_json, junit, markdown)
    raise typer.Exit(0 if report else 1)
