"""Commands for the machine that runs a bundle: inspect, bench, tune, deploy, and isthmus-run's."""

from __future__ import annotations

import json
import os
import sys
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
    Markdown,
    ModelOption,
    NativeEngine,
    OnlyArtifact,
    OpLibrary,
    Threads,
    Trust,
    run_options,
)
from isthmus.cli.output import print_report, words, work


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="BUNDLE|FILE.pt|FILE.onnx")],
    submodule: Annotated[str, typer.Option(help="Only this dotted submodule's graph.")] = "",
    code: Annotated[bool, typer.Option("--code", help="Print the code.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the IR graph; loads the module.")
    ] = False,
    artifact: Annotated[str, typer.Option(help="The artifact; by default the first.")] = "",
    as_json: Json = False,
) -> None:
    """Prints operators and owners, constants, literals, code; runs nothing without --graph."""
    with work():
        from isthmus.proof.inspect import inspect as run

        inspection = run(path, submodule=submodule, graph=graph, artifact=artifact)
    if as_json:
        print(json.dumps(inspection.to_json(), indent=2))
    else:
        inspection.print(Console(), code=code)


@app.command()
def bench(
    bundle: BundlePath,
    model: ModelOption = None,
    form: Annotated[
        list[str] | None,
        typer.Option(help="Torch, TorchScript, ONNX Runtime, ...; all by default."),
    ] = None,
    device: Device = None,
    artifact: OnlyArtifact = None,
    golden: Annotated[str | None, typer.Option(help="The golden whose inputs are timed.")] = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Turns of each row.")] = 30,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the distributions: .png or .svg.")] = None,
    markdown: Markdown = None,
    as_json: Json = False,
) -> None:
    """Times Python against C++, each row in a process of its own, taking turns."""
    with work() as say:
        from isthmus.timing.bench import TIMEOUT, bench_bundle

        options = run_options(
            say, trust, allow_native, op_library,
            devices=device, artifact=artifact, threads=threads, timeout=TIMEOUT,
        )  # fmt: skip
        report = bench_bundle(
            bundle, options, model, forms=form or None, golden=golden, rounds=rounds
        )
        if plot is not None:
            report.plot(plot)
    print_report(report, as_json, None, markdown)
    raise typer.Exit(0 if report else 5)


@app.command()
def tune(
    bundle: BundlePath,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    engine: NativeEngine = None,
    threads: Annotated[str, typer.Option(help="Numbers of threads to try, with commas.")] = "",
    golden: Annotated[
        list[str] | None, typer.Option(help="A shape to time; first, smallest, largest by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each candidate on each shape.")] = 8,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Write tuning.json into the bundle.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Times every engine and number of threads, and makes the fastest the default of `load`."""
    with work() as say:
        from isthmus.errors import InvalidInput
        from isthmus.timing.bench import TIMEOUT
        from isthmus.timing.tune import tune_bundle

        try:
            counts = [int(word) for word in words(threads)]
        except ValueError:
            raise InvalidInput(f'--threads: expected numbers, got "{threads}"') from None
        options = run_options(
            say, trust, allow_native, op_library,
            engines=engine, devices=[device], timeout=TIMEOUT,
        )  # fmt: skip
        report = tune_bundle(
            bundle, options, threads=counts or None, goldens=golden or None, rounds=rounds,
            write=write,
        )  # fmt: skip
    print_report(report, as_json, None, None)
    raise typer.Exit(0 if report else 5)


deploy_app = typer.Typer(help="Puts a bundle where it will run.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy")


@deploy_app.command()
def folder(
    bundle: BundlePath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    engine: Annotated[str, typer.Option(help="The engine whose libraries to take.")],
    artifact: Annotated[
        str, typer.Option(help="The artifact; by default the first that the engine runs.")
    ] = "",
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace such a folder that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Writes isthmus-run, its libraries and the bundle to a folder, for machines without Python."""
    with work() as say:
        from isthmus.runtime.deploy import deploy as run

        report = run(
            bundle,
            output,
            engine=engine,
            artifact=artifact,
            trust="native" if allow_native else trust,
            overwrite=overwrite,
            progress=say,
        )
    print_report(report, as_json, None, None)


def _native(name: str, help_text: str) -> None:
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, help=help_text, context_settings=settings, add_help_option=False)
    def command(context: typer.Context) -> None:
        from isthmus.runtime import install_paths

        with work():
            program = install_paths.binary()
        sys.stdout.flush()
        os.execv(program, [str(program), name, *context.args])


_native("info", "Prints what a bundle holds (isthmus-run info).")
_native("predict", "Runs a bundle on a file of inputs (isthmus-run predict).")
_native("doctor", "Prints what is on this machine, and whether a bundle fits (isthmus-run doctor).")
