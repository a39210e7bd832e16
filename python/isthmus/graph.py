"""Looks into TorchScript: operators and who owns them, constants, literals, code and graphs.

All but the graph comes from the archive's bytes, which the scanner reads as text; nothing is
executed. The graph needs the module loaded by torch, after the scanner has let it pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from isthmus.errors import BundleError, InvalidInput
from isthmus.manifest import Hazard, Manifest

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from isthmus import _core

__all__ = ["Inspection", "OperatorUse", "Value", "inspect"]


@dataclass(frozen=True)
class OperatorUse:
    """One operator."""

    name: str
    count: int
    """Places in the code that call it."""
    owner: str
    """Library that registers it: "LibTorch", or the file's name, or "unknown"."""


@dataclass(frozen=True)
class Value:
    """An input or output."""

    name: str
    type: str


@dataclass(frozen=True)
class Inspection:
    """What a TorchScript archive holds."""

    path: str
    file_format_version: int
    inputs: Mapping[str, tuple[Value, ...]]
    """By method."""
    outputs: Mapping[str, tuple[Value, ...]]
    operators: tuple[OperatorUse, ...]
    constants: tuple[str, ...]
    """Tensors baked into the code: name, dtype and shape where it can be told."""
    literals: tuple[Hazard, ...]
    """Devices and dtypes written into the code."""
    refused: tuple[str, ...]
    """What keeps the archive from being loaded with trust "graph"."""
    code: Mapping[str, str] = field(default_factory=dict)
    graph: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"schema": "isthmus-inspect", "version": 1, **asdict(self)}

    def print(self, console: Console, *, code: bool = False) -> None:
        """Tables for people."""
        from rich.markup import escape
        from rich.table import Table

        console.print(f"{self.path}: TorchScript, file format {self.file_format_version}")
        for method, inputs in self.inputs.items():
            table = Table("", "name", "type", title=f"{method}")
            for one in inputs:
                table.add_row("in", escape(one.name), escape(one.type))
            for one in self.outputs.get(method, ()):
                table.add_row("out", escape(one.name), escape(one.type))
            console.print(table)
        table = Table("operator", "places", "library", title="Operators")
        for use in self.operators:
            table.add_row(escape(use.name), str(use.count), escape(use.owner))
        console.print(table)
        for title, lines in (
            ("Constants baked in", self.constants),
            ("Devices and dtypes baked in", [_line(one) for one in self.literals]),
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


def _line(hazard: Hazard) -> str:
    return f"{hazard.message} ({hazard.where})" if hazard.where else hazard.message


def inspect(
    path: str | Path,
    *,
    submodule: str = "",
    graph: bool = False,
    artifact: str = "",
) -> Inspection:
    """Looks into a bundle's TorchScript artifact, or into a TorchScript file.

    Args:
        path: A bundle, or a file that `torch.jit.save` wrote.
        submodule: Only the code and the graph of this dotted submodule.
        graph: Also load the module, when the scanner lets it pass, and print its graph.
        artifact: Of the bundle; the first TorchScript one when empty.

    Raises:
        BundleError: It is something else or damaged; or the graph is asked for, and the scanner
            refuses the archive.
        InvalidInput: There is no such artifact or submodule.
    """
    from isthmus import _core

    root = Path(path)
    manifest: Manifest | None = None
    if root.is_dir():
        archive, manifest, label = _of_bundle(root, artifact)
    else:
        archive, label = read_archive(root, "a bundle or a TorchScript archive"), str(root)
    scan = _core.scan_torchscript(archive)
    namespaces = {name.partition("::")[0] for name in scan.operators}
    known = _core.scan_torchscript(archive, namespaces)
    code = dict(scan.code)
    text = ""
    if submodule or graph:
        module = _load(archive, label, scan if manifest is None else known)
        text, code = _submodule(module, submodule, code, graph=graph)
    inputs, outputs = _values(manifest, scan.code)
    owners = _owners(manifest)
    return Inspection(
        path=label,
        file_format_version=scan.file_format_version,
        inputs=inputs,
        outputs=outputs,
        operators=tuple(
            OperatorUse(name, count, _owner(name, owners))
            for name, count in sorted(scan.operators.items())
            if not name.startswith("prim::")
        ),
        constants=tuple(f.what for f in scan.findings if f.kind == "constant"),
        literals=tuple(
            Hazard(f.kind, "info", f.what, f.where)
            for f in scan.findings
            if f.kind in ("device_literal", "dtype_literal")
        ),
        refused=tuple(f"{f.what} ({f.where})" for f in known.findings if f.refused),
        code=code,
        graph=text,
    )


def read_archive(path: Path, expected: str = "a TorchScript archive") -> bytes:
    """The bytes of a TorchScript archive, told from its content.

    Raises:
        BundleError: It is missing or something else; says what, and what to do.
    """
    from isthmus import _core

    if not path.exists():
        raise BundleError(f"{path}: there is no such file; expected {expected}")
    found = _core.sniff(path)
    if found.kind != "torchscript":
        raise BundleError(f"{path}: expected {expected}, got {found.kind}; {found.advice}")
    return path.read_bytes()


def _of_bundle(root: Path, artifact: str) -> tuple[bytes, Manifest, str]:
    from isthmus.bundle import open_bundle

    bundle = open_bundle(root)
    if artifact:
        chosen = bundle.artifact(artifact)
    else:
        scripted = [one for one in bundle.manifest.artifacts if one.format == "torchscript"]
        if not scripted:
            raise InvalidInput(f"{root} has no TorchScript artifact to look into")
        chosen = scripted[0]
    if chosen.format != "torchscript":
        raise InvalidInput(f'artifact "{artifact}" is {chosen.format}; expected a TorchScript one')
    return bundle.read(chosen.files[0]), bundle.manifest, str(root / chosen.files[0].path)


def _load(archive: bytes, label: str, scan: _core.ArchiveScan) -> torch.jit.ScriptModule:
    from isthmus.export.check import load_bytes
    from isthmus.export.quiet import quiet_torch

    if scan.refused:
        raise BundleError(
            f"{label} is not loaded for its graph, for the scanner refuses it: {scan.describe()}. "
            "Its code and operators can be read without loading"
        )
    try:
        with quiet_torch():
            return load_bytes(archive, "cpu")
    except RuntimeError as error:
        raise BundleError(
            f"{label} cannot be loaded for its graph "
            f"({str(error).strip().splitlines()[0]}); its code and operators can be read without"
        ) from error


def _submodule(
    module: torch.jit.ScriptModule, path: str, code: dict[str, str], *, graph: bool
) -> tuple[str, dict[str, str]]:
    target = module
    if path:
        parts = dict(module.named_modules())
        names = [name for name in parts if name]
        if path not in names:
            import difflib

            near = difflib.get_close_matches(path, names, n=5) or names[:5]
            raise InvalidInput(
                f'there is no submodule "{path}"; near it are: {", ".join(near) or "none"}'
            )
        target = cast("torch.jit.ScriptModule", parts[path])
    methods = target._c._method_names()
    if path:
        code = {f"{path}.{name}": str(target._c._get_method(name).code) for name in methods}
    text = ""
    if graph:
        text = "\n".join(str(target._c._get_method(name).graph) for name in methods)
    return text, code


def _values(
    manifest: Manifest | None, code: Mapping[str, str]
) -> tuple[dict[str, tuple[Value, ...]], dict[str, tuple[Value, ...]]]:
    if manifest is None:
        return _from_code(code)
    inputs: dict[str, tuple[Value, ...]] = {}
    outputs: dict[str, tuple[Value, ...]] = {}
    for method in manifest.methods:
        for found, specs in ((inputs, method.inputs), (outputs, method.outputs)):
            found[method.name] = tuple(
                Value(
                    spec.name,
                    spec.dtype
                    + ("[any rank]" if spec.shape is None else f"[{_shape(spec.shape)}]")
                    + (" or None" if spec.optional else ""),
                )
                for spec in specs
            )
    return inputs, outputs


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return ", ".join("?" if one is None else str(one) for one in shape)


_METHOD = re.compile(
    r"^  def (?P<name>\w+)\(self: [\w.]+(?P<inputs>[^)]*)\) -> (?P<output>[^\n]+):\s*$",
    re.MULTILINE,
)
_ROOT = re.compile(r"^class (?P<name>\w+)\(Module\):", re.MULTILINE)


def _from_code(
    code: Mapping[str, str],
) -> tuple[dict[str, tuple[Value, ...]], dict[str, tuple[Value, ...]]]:
    """Methods of the last class in the archive's own module: how torch writes the root."""
    inputs: dict[str, tuple[Value, ...]] = {}
    outputs: dict[str, tuple[Value, ...]] = {}
    text = next((body for name, body in code.items() if name.endswith("code/__torch__.py")), "")
    if not text and code:
        text = max(code.values(), key=len)
    roots = list(_ROOT.finditer(text))
    for found in _METHOD.finditer(text[roots[-1].start() :] if roots else ""):
        parts = [one.strip() for one in found["inputs"].lstrip(",\n ").split(",\n") if one.strip()]
        inputs[found["name"]] = tuple(
            Value(*(piece.strip() for piece in one.partition(":")[::2])) for one in parts
        )
        outputs[found["name"]] = (Value("output", found["output"].strip()),)
    return inputs, outputs


def _owners(manifest: Manifest | None) -> dict[str, str]:
    owners: dict[str, str] = {}
    for artifact in manifest.artifacts if manifest is not None else ():
        for library in artifact.op_libraries:
            owners[library.namespace] = library.library or "unknown"
    return owners


def _owner(name: str, owners: Mapping[str, str]) -> str:
    from isthmus.export.operators import CORE_NAMESPACES

    namespace = name.partition("::")[0]
    return owners.get(namespace, "LibTorch" if namespace in CORE_NAMESPACES else "unknown")
