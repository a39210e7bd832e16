"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
