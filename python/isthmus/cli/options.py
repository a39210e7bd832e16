"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.runtime.run_options import RunOptions

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
BundlePath = Annotated[str, typer.Argument(metavar="BUNDLE")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder, to be made.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")]
Dynamic = Annotated[
    list[str] | None,
    typer.Option("--dynamic", help="NAME:AXIS=DIMENSION,... such as input_ids:0=batch,1=sequence"),
]
Dim = Annotated[
    list[str] | None,
    typer.Option("--dim", help="NAME=MIN:MAX or NAME=SIZE,SIZE,..., such as batch=1:64"),
]
Accept = Annotated[
    list[str] | None,
    typer.Option("--accept", help="FILE.py:LINE of a branch that a trace may freeze."),
]
Example = Annotated[
    list[Path] | None,
    typer.Option(
        "--example",
        help="Inputs of a further real call by name, .npz or .safetensors; give several, of "
        "different sizes, where inputs have to fit each other.",
    ),
]
OpLibrary = Annotated[
    list[str] | None,
    typer.Option("--op-library", help="A library of custom operators, opened first."),
]
Engine = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", help="eager, torch.jit, torchscript, onnxruntime, ...; all by default."
    ),
]
NativeEngine = Annotated[
    list[str] | None,
    typer.Option("--engine", help="torchscript, onnxruntime, ...; all by default."),
]
Device = Annotated[
    list[str] | None, typer.Option("--device", help="cpu, cuda, cuda:N; all by default.")
]
OnlyArtifact = Annotated[str | None, typer.Option("--artifact", help="Only this artifact.")]
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
ModelName = Annotated[str, typer.Option("--name", help="The model's name in the manifest.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="package.module:factory, or a Hugging Face folder or id."),
]
Junit = Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown.")]


def run_options(
    say: Callable[[str], None],
    trust: str,
    allow_native: bool,
    op_libraries: Sequence[str] | None,
    **options: Any,
) -> RunOptions:
    """Returns the options of a command that runs engines.

    Args:
        say: Shows progress.
        trust: The option --trust.
        allow_native: The option --allow-native, which overrides it.
        op_libraries: The options --op-library.
        **options: Further fields of `RunOptions`; options that were not given are None.
    """
    return RunOptions(
        trust="native" if allow_native else trust,
        op_libraries=op_libraries or (),
        progress=say,
        **{name: value for name, value in options.items() if value not in (None, [])},
    )
