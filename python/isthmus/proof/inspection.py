"""The result of inspect: what an artifact holds, as data and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import EngineProof, Hazard

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Inspection", "OperatorUse", "Value"]


@dataclass(frozen=True)
class OperatorUse:
    """An operator and how often the code calls it."""

    name: str
    count: int
    """The number of places in the code that call it."""
    owner: str
    """The library that registers it: "LibTorch", or the file's name, or "unknown"."""


@dataclass(frozen=True)
class Value:
    """An input or output of a method."""

    name: str
    type: str


@dataclass(frozen=True)
class Inspection:
    """The contents of an artifact."""

    path: str
    format: str
    """The format: "torchscript", "exported", "onnx" or "aoti"."""
    versions: Mapping[str, str]
    """The file format of TorchScript, the operator sets of ONNX, or what native code requires."""
    inputs: Mapping[str, tuple[Value, ...]]
    """Maps a method to its inputs."""
    outputs: Mapping[str, tuple[Value, ...]]
    """Maps a method to its outputs."""
    operators: tuple[OperatorUse, ...]
    constants: tuple[str, ...]
    """The tensors baked into the code: name, dtype and, where it is known, shape."""
    literals: tuple[Hazard, ...]
    """The devices and dtypes written into the code."""
    refused: tuple[str, ...]
    """The reasons why the artifact cannot be loaded with trust "graph"."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Maps a file or method to its code."""
    graph: str = ""
    """The TorchScript graph; empty unless it was asked for."""
    precision: str = ""
    """The precision; empty for a file outside of a bundle."""
    proofs: tuple[EngineProof, ...] = ()
    """The verdict of each engine that was tried at export; none for a file outside of a bundle."""
    sizes: str = ""
    """The sizes of named dimensions that it serves, where these are fewer than the bundle's."""

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {"schema": "isthmus-inspect", "version": 2, **asdict(self)}

    def print(self, console: Console, *, code: bool = False) -> None:
        """Prints tables, and with `code` the code."""
        from rich.markup import escape
        from rich.table import Table

        versions = "".join(f", {name} {value}" for name, value in self.versions.items())
        precision = f", in {self.precision}" if self.precision else ""
        title = _TITLES.get(self.format, self.format)
        console.print(f"{self.path}: {title}{versions}{precision}")
        for method, inputs in self.inputs.items():
            table = Table("", "name", "type", title=f"{method}")
            for input_spec in inputs:
                table.add_row("in", escape(input_spec.name), escape(input_spec.type))
            for output in self.outputs.get(method, ()):
                table.add_row("out", escape(output.name), escape(output.type))
            console.print(table)
        if self.sizes:
            console.print(f"serves {escape(self.sizes)} only", highlight=False)
        if self.proofs:
            table = Table("engine", "on", "goldens", "runtime", "why", title="Engines")
            for proof in self.proofs:
                verdict = "passed" if proof.passed else "FAILED"
                runtime, note = escape(proof.runtime), escape(proof.note)
                table.add_row(proof.engine, proof.device, verdict, runtime, note)
            console.print(table)
        if self.operators:
            table = Table("operator", "places", "library", title="Operators")
            for use in self.operators:
                table.add_row(escape(use.name), str(use.count), escape(use.owner))
            console.print(table)
        for title, lines in (
            ("Constants baked in", self.constants),
            ("Devices and dtypes baked in", [_line(literal) for literal in self.literals]),
            ("Refused without trust", self.refused),
        ):
            if lines:
                console.print(f"[bold]{title}[/bold]")
                for line in lines:
                    console.print(f"  {escape(line)}", highlight=False)
        if code:
            for name, text in self.code.items():
                console.print(f"[bold]{escape(name)}[/bold]")
                console.print(text, markup=False, highlight=False)
        if self.graph:
            console.print("[bold]Graph[/bold]")
            console.print(self.graph, markup=False, highlight=False, soft_wrap=True)


_TITLES = {
    "torchscript": "TorchScript",
    "exported": "exported program",
    "onnx": "ONNX",
    "aoti": "AOTInductor, native code",
}


def _line(hazard: Hazard) -> str:
    return f"{hazard.message} ({hazard.where})" if hazard.where else hazard.message
