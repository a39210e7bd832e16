"""Commands that make bundles: export, adopt, convert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.cli.app import app
from isthmus.cli.options import (
    Accept,
    AllowNative,
    BundlePath,
    Dim,
    Dynamic,
    Example,
    Isa,
    Json,
    ModelName,
    OpLibrary,
    Opset,
    Output,
    Overwrite,
    TimeLimit,
    Trust,
)
from isthmus.cli.output import print_bundle, print_report, words, work


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A Hugging Face id or folder, or package.module:factory."
        ),
    ],
    output: Output,
    task: Annotated[str, typer.Option(help="The task of a Hugging Face model.")] = "",
    attention: Annotated[str, typer.Option(help="sdpa or eager; by default the model's own.")] = "",
    strategy: Annotated[str, typer.Option(help="auto, trace, script or mixed.")] = "auto",
    script: Annotated[
        list[str] | None,
        typer.Option(help="Submodule or package.module:function to script; the rest is traced."),
    ] = None,
    trace: Annotated[
        list[str] | None, typer.Option(help="Submodule to trace; the rest is scripted.")
    ] = None,
    accept: Accept = None,
    dynamic: Dynamic = None,
    dim: Dim = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="Parameter whose number becomes part of the model.")
    ] = None,
    example: Example = None,
    formats: Annotated[
        str,
        typer.Option(
            help="torchscript, exported, onnx, aoti, with commas; the first is preferred."
        ),
    ] = "torchscript",
    precision: Annotated[
        str,
        typer.Option(help="fp32, fp16, bf16, int8, with commas; int8 is for onnx."),
    ] = "fp32",
    device: Annotated[str, typer.Option(help="The device to make the artifact on.")] = "cpu",
    opset: Opset = None,
    isa: Isa = "portable",
    time_limit: TimeLimit = 1800.0,
    op_library: OpLibrary = None,
    name: ModelName = "",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Exports a model, proves the artifact against it, and writes a bundle."""
    with work() as say:
        from isthmus.bundle.bundle import check_destination
        from isthmus.bundle.tensor_file import read_tensors
        from isthmus.capture.load_model import load_model, parse_axes, parse_dims

        check_destination(output, overwrite=overwrite)
        axes, ranges = parse_axes(dynamic or ()), parse_dims(dim or ())
        say("Importing torch and loading the model")
        loaded = load_model(model, task, attention)
        say(f"Loaded {type(loaded.module).__name__}")
        # Imported late, so that a model that cannot be found is told at once.
        from isthmus.exporters.export import export as run

        chosen = axes or loaded.dynamic
        names = {dimension for by_axis in chosen.values() for dimension in by_axis.values()}
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
            accept=accept or (),
            precision=words(precision),
            device=device,
            examples=[dict(read_tensors(file, "example")) for file in example or ()],
            formats=words(formats),
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
    print_bundle(bundle, as_json)
    raise typer.Exit(0 if all(result.ok for result in bundle.results) else 5)


@app.command()
def adopt(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A TorchScript file, an exported program, an ONNX file or an AOTInductor package.",
        ),
    ],
    output: Output,
    inputs: Annotated[Path, typer.Option(help="Example inputs by name: .npz or .safetensors.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="A further method, with its example inputs if any: NAME or NAME=FILE."),
    ] = None,
    dynamic: Dynamic = None,
    dim: Dim = None,
    example: Example = None,
    trust: Trust = "graph",
    op_library: OpLibrary = None,
    name: ModelName = "",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Makes a bundle of a model's file, whose own answers are the reference."""
    with work() as say:
        from isthmus.capture.load_model import parse_axes, parse_dims
        from isthmus.exporters.adopt import adopt as run

        pairs = (option.partition("=") for option in method or ())
        methods: dict[str, Mapping[str, Any] | str] = {key: path or {} for key, _, path in pairs}
        bundle = run(
            file,
            inputs,
            output=output,
            methods=methods,
            dynamic=parse_axes(dynamic or ()) or None,
            dims=parse_dims(dim or ()) or None,
            examples=example or (),
            trust=trust,
            op_libraries=op_library or (),
            name=name,
            overwrite=overwrite,
            progress=say,
        )
    print_bundle(bundle, as_json)


@app.command()
def convert(
    path: BundlePath,
    to: Annotated[str, typer.Option(help="onnx, aoti, with commas.")],
    precision: Annotated[
        str, typer.Option(help="int8 quantises the bundle's fp32 ONNX; by default it is kept.")
    ] = "",
    artifact: Annotated[
        str, typer.Option(help="The artifact to start from; by default the first that fits.")
    ] = "",
    accept: Accept = None,
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
    """Converts a bundle's TorchScript to other formats, without Python source, with proof."""
    with work() as say:
        from isthmus.exporters.convert import convert as run

        bundle = run(
            path,
            words(to),
            precision=precision,
            artifact=artifact,
            accept=accept or (),
            opset=opset,
            isa=isa,
            trust="native" if allow_native else trust,
            op_libraries=op_library or (),
            time_limit=time_limit,
            progress=say,
        )
    print_bundle(bundle, as_json)
    good = all(result.ok for result in bundle.results)
    if prove and not as_json:
        with work() as say:
            from isthmus.proof.verify import verify as prove_all
            from isthmus.timing.bench import bench as measure

            # The native code was compiled here, just now, from a graph that was scanned.
            parity = prove_all(bundle, trust="native", op_libraries=op_library or (), progress=say)
            speed = measure(
                bundle, trust="native", op_libraries=op_library or (), rounds=10, progress=say
            )
        print_report(parity, False, None, None)
        print_report(speed, False, None, None)
        good = good and bool(parity)
    raise typer.Exit(0 if good else 5)
