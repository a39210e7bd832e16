"""Commands for where it runs: inspect, bench, tune, deploy, and those of isthmus-run."""

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
    ModelOption,
    OpLibrary,
    Threads,
    Trust,
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
    artifact: Annotated[str, typer.Option(help="Of the bundle; the first by default.")] = "",
    as_json: Json = False,
) -> None:
    """Operators and their owners, constants, literals, code; executes nothing without --graph."""
    with work():
        from isthmus.proof.inspect import inspect as run

        found = run(path, submodule=submodule, graph=graph, artifact=artifact)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        found.print(Console(), code=code)


@app.command()
def bench(
    bundle: BundlePath,
    model: ModelOption = None,
    form: Annotated[
        list[str] | None,
        typer.Option(help="Torch, TorchScript, ONNX Runtime, ...; all by default."),
    ] = None,
    device: Device = None,
    artifact: Annotated[str | None, typer.Option(help="Only this artifact.")] = None,
    golden: Annotated[str | None, typer.Option(help="Whose inputs are timed.")] = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(help="Turns of each row.")] = 30,
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    op_library: OpLibrary = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the distributions: .png or .svg.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write Markdown.")] = None,
    as_json: Json = False,
) -> None:
    """Times Python against C++, each row in a process of its own, taking turns."""
    with work() as say:
        from isthmus.timing.bench import bench as run

        report = run(
            bundle,
            model,
            form or None,
            device or None,
            artifact=artifact,
            golden=golden,
            threads=threads,
            rounds=rounds,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            progress=say,
        )
        if plot is not None:
            report.plot(plot)
    print_report(report, as_json, None, markdown)
    raise typer.Exit(0 if report else 5)


@app.command()
def tune(
    bundle: BundlePath,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    engine: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be repeated.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Numbers to try, with commas.")] = "",
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
    """Times every engine and number of threads here, and lets `load` take the fastest."""
    with work() as say:
        from isthmus.errors import InvalidInput
        from isthmus.timing.tune import tune as run

        try:
            counts = [int(word) for word in words(threads)]
        except ValueError:
            raise InvalidInput(f'--threads: expected numbers, got "{threads}"') from None
        report = run(
            bundle,
            device=device,
            engines=engine,
            threads=counts or None,
            goldens=golden,
            rounds=rounds,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            write=write,
            progress=say,
        )
    print_report(report, as_json, None, None)
    raise typer.Exit(0 if report else 5)


deploy_app = typer.Typer(help="Puts a bundle where it will run.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy")


@deploy_app.command()
def folder(
    bundle: BundlePath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    engine: Annotated[str, typer.Option(help="Whose libraries to take.")],
    artifact: Annotated[str, typer.Option(help="The first that the engine runs by default.")] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace such a folder that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A folder with isthmus-run, its libraries and the bundle, for machines without Python."""
    with work() as say:
        from isthmus.runtime.deploy import deploy as run

        report = run(
            bundle, output, engine=engine, artifact=artifact, overwrite=overwrite, progress=say
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


_native("info", "What a bundle holds (isthmus-run info).")
_native("predict", "Runs a bundle on a file of inputs (isthmus-run predict).")
_native("doctor", "What is on this machine, and whether a bundle fits (isthmus-run doctor).")
