"""The command line `isthmus`.

Exit codes: 0 good, 1 parity failed, 2 bad usage or input, 3 bundle, 4 engine or device not
available, 5 execution or export. `info`, `predict` and `doctor` become `isthmus-run`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from isthmus.errors import Error, exit_code

if TYPE_CHECKING:
    from isthmus.bundle import Bundle
    from isthmus.report import Reportable

app = typer.Typer(
    help="Takes a PyTorch or Hugging Face model into C++, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
BundlePath = Annotated[str, typer.Argument(metavar="BUNDLE")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder, to be made.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")]
Dynamic = Annotated[
    list[str] | None,
    typer.Option("--dynamic", help="NAME:AXIS=DIMENSION,... such as input_ids:0=batch,1=sequence"),
]
Dim = Annotated[list[str] | None, typer.Option("--dim", help="NAME=MIN:MAX, such as batch=1:64")]
OpLibrary = Annotated[
    list[str] | None,
    typer.Option("--op-library", help="A library of custom operators, opened first."),
]
Threads = Annotated[int | None, typer.Option(help="Threads of every runtime.")]
Trust = Annotated[str, typer.Option(help="What the bundle may do: data, graph or native.")]
AllowNative = Annotated[
    bool, typer.Option("--allow-native", help="The same as --trust native: run native code.")
]
Opset = Annotated[int | None, typer.Option(help="ONNX operator set version.")]
Isa = Annotated[
    str,
    typer.Option(help="AOTInductor compiles for: portable, avx2, avx512, native."),
]
TimeLimit = Annotated[float, typer.Option("--time-limit", help="Seconds for each format.")]
Device = Annotated[
    list[str] | None, typer.Option("--device", help="cpu, cuda, cuda:N; all by default.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="package.module:factory, or a Hugging Face folder or id."),
]


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A Hugging Face id or folder, or package.module:factory."
        ),
    ],
    output: Output,
    task: Annotated[str, typer.Option(help="Of a Hugging Face model.")] = "",
    attention: Annotated[str, typer.Option(help="sdpa or eager; the model's own.")] = "",
    strategy: Annotated[str, typer.Option(help="auto, trace, script or mixed.")] = "auto",
    script: Annotated[
        list[str] | None,
        typer.Option(help="Submodule or package.module:function to script; the rest is traced."),
    ] = None,
    trace: Annotated[
        list[str] | None, typer.Option(help="Submodule to trace; the rest is scripted.")
    ] = None,
    dynamic: Dynamic = None,
    dim: Dim = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="Parameter whose number becomes part of the model.")
    ] = None,
    formats: Annotated[
        str,
        typer.Option(help="torchscript, onnx, aoti, with commas; the first is preferred."),
    ] = "torchscript",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="Where to make the artifact.")] = "cpu",
    opset: Opset = None,
    isa: Isa = "portable",
    time_limit: TimeLimit = 1800.0,
    op_library: OpLibrary = None,
    name: Annotated[str, typer.Option(help="Of the model, in the manifest.")] = "",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Exports a model, proves the artifact against it, and writes a bundle."""
    with _work() as say:
        from isthmus.bundle import check_destination
        from isthmus.export import export as run
        from isthmus.model_source import load_model, parse_axes, parse_dims

        check_destination(output, overwrite=overwrite)
        axes, ranges = parse_axes(dynamic or ()), parse_dims(dim or ())
        say("Importing torch and loading the model")
        loaded = load_model(model, task, attention)
        say(f"Loaded {type(loaded.module).__name__}")
        chosen = axes or loaded.dynamic
        names = {one for entry in chosen.values() for one in entry.values()}
        known = {key: value for key, value in loaded.dims.items() if key in names}
        bundle = run(
            loaded.module,
            loaded.args,
            loaded.kwargs,
            path=output,
            strategy=strategy,  # type: ignore[arg-type]
            dynamic=chosen or None,
            dims={**known, **ranges} or None,
            methods=loaded.methods or None,
            constants=(*loaded.constants, *(constant or ())),
            script=script or (),
            trace=trace or (),
            precision=precision,
            device=device,
            formats=_list(formats),
            opset=opset,
            isa=isa,
            time_limit=time_limit,
            op_libraries=op_library or (),
            name=name or loaded.name,
            source=loaded.source,
            extra_files=loaded.extra_files,
            overwrite=overwrite,
            progress=say,
        )
    _print_bundle(bundle, as_json)
    raise typer.Exit(0 if all(one.ok for one in bundle.results) else 5)


@app.command()
def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="A TorchScript file.")],
    output: Output,
    inputs: Annotated[Path, typer.Option(help="Example inputs by name: .npz or .safetensors.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="A further method, with its example inputs if any: NAME or NAME=FILE."),
    ] = None,
    dynamic: Dynamic = None,
    dim: Dim = None,
    trust: Trust = "graph",
    op_library: OpLibrary = None,
    name: Annotated[str, typer.Option(help="Of the model, in the manifest.")] = "",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Makes a bundle of a TorchScript file that somebody else made, which is its own truth."""
    with _work() as say:
        from isthmus.adopt import adopt as run
        from isthmus.model_source import parse_axes, parse_dims

        named = (one.partition("=") for one in method or ())
        methods: dict[str, Mapping[str, Any] | str] = {key: at or {} for key, _, at in named}
        bundle = run(
            file,
            inputs,
            output=output,
            methods=methods,
            dynamic=parse_axes(dynamic or ()) or None,
            dims=parse_dims(dim or ()) or None,
            trust=trust,
            op_libraries=op_library or (),
            name=name,
            overwrite=overwrite,
            progress=say,
        )
    _print_bundle(bundle, as_json)


@app.command()
def convert(
    path: BundlePath,
    to: Annotated[str, typer.Option(help="onnx, aoti: a list with commas.")],
    artifact: Annotated[str, typer.Option(help="The TorchScript one; the first by default.")] = "",
    opset: Opset = None,
    isa: Isa = "portable",
    trust: Trust = "graph",
    allow_native: AllowNative = False,
    time_limit: TimeLimit = 1800.0,
    op_library: OpLibrary = None,
    prove: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Verify and time all formats afterwards.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Turns a bundle's TorchScript into other formats, without the Python source, with proof."""
    with _work() as say:
        from isthmus.convert import convert as run

        bundle = run(
            path,
            _list(to),
            artifact=artifact,
            opset=opset,
            isa=isa,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            time_limit=time_limit,
            progress=say,
        )
    _print_bundle(bundle, as_json)
    good = all(one.ok for one in bundle.results)
    if prove and not as_json:
        with _work() as say:
            from isthmus.bench import bench as measure
            from isthmus.verify import verify as prove_all

            # Native code that was compiled here, a moment ago, from a graph that was scanned.
            parity = prove_all(bundle, trust="native", op_libraries=op_library or (), progress=say)
            speed = measure(
                bundle, trust="native", op_libraries=op_library or (), rounds=10, progress=say
            )
        _print_report(parity, False, None, None)
        _print_report(speed, False, None, None)
        good = good and bool(parity)
    raise typer.Exit(0 if good else 5)


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
    with _work() as say:
        from isthmus.errors import InvalidInput
        from isthmus.tune import tune as run

        try:
            counts = [int(one) for one in _list(threads)]
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
    _print_report(report, as_json, None, None)
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
    with _work() as say:
        from isthmus.deploy import deploy as run

        report = run(
            bundle, output, engine=engine, artifact=artifact, overwrite=overwrite, progress=say
        )
    _print_report(report, as_json, None, None)


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
    with _work():
        from isthmus.graph import inspect as run

        found = run(path, submodule=submodule, graph=graph, artifact=artifact)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        found.print(Console(), code=code)


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
    with _work() as say:
        from isthmus.verify import verify as run

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
    _print_report(report, as_json, junit, markdown)
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
    with _work() as say:
        from isthmus.replay import replay as run

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
    _print_report(report, as_json, junit, markdown)
    raise typer.Exit(0 if report else 1)


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
    with _work() as say:
        from isthmus.bench import bench as run

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
    _print_report(report, as_json, None, markdown)
    raise typer.Exit(0 if report else 5)


def _native(name: str, help_text: str) -> None:
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name, help=help_text, context_settings=settings, add_help_option=False)
    def command(context: typer.Context) -> None:
        from isthmus import native

        with _work():
            program = native.binary()
        sys.stdout.flush()
        os.execv(program, [str(program), name, *context.args])


_native("info", "What a bundle holds (isthmus-run info).")
_native("predict", "Runs a bundle on a file of inputs (isthmus-run predict).")
_native("doctor", "What is on this machine, and whether a bundle fits (isthmus-run doctor).")


@contextmanager
def _work() -> Iterator[Callable[[str], None]]:
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


def _print_report(
    report: Reportable, as_json: bool, junit: Path | None, markdown: Path | None
) -> None:
    from isthmus.report import print_report, to_json, to_junit, to_markdown

    if junit is not None:
        junit.write_text(to_junit(report), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(to_markdown(report), encoding="utf-8")
    if as_json:
        print(to_json(report))
    else:
        print_report(report)


def _list(text: str) -> list[str]:
    """Words between commas."""
    return [one.strip() for one in text.split(",") if one.strip()]


def _print_formats(bundle: Bundle, console: Console) -> None:
    """A row for each format that was asked for."""
    table = Table("format", "result", "time", "size", "made by", "why not", "what to try")
    for one in bundle.results:
        where = f"\n({one.where})" if one.where else ""
        table.add_row(
            one.format,
            "[green]proven[/green]" if one.ok else "[red]failed[/red]",
            f"{one.seconds:.1f} s",
            f"{one.size / 1e6:.1f} MB" if one.ok else "-",
            one.strategy or "-",
            escape(one.reason + where),
            escape(one.advice),
        )
    console.print(table)


def _print_bundle(bundle: Bundle, as_json: bool) -> None:
    from isthmus.manifest import to_json

    if as_json:
        document: dict[str, Any] = {"path": str(bundle.path), "manifest": to_json(bundle.manifest)}
        document["formats"] = [
            {
                "format": one.format,
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
        _print_formats(bundle, console)
    console.print(f"Prove it anywhere: isthmus-run verify {escape(str(bundle.path))}")


def main() -> None:
    """Console script `isthmus`."""
    app()
