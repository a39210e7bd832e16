"""Looks into artifacts: operators and who owns them, constants, literals, code and graphs.

What is told comes from the bytes of a TorchScript archive or an ONNX file, which the scanners read
as text and as a protocol buffer, and for native code from the manifest; nothing is executed. The
graph of TorchScript needs the module loaded by torch, after the scanner has let it pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from isthmus.bundle.manifest import Artifact, Hazard, Manifest
from isthmus.errors import BundleError, InvalidInput
from isthmus.exporters.torchscript.archive import read_archive

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from isthmus import _core
    from isthmus.bundle.bundle import Bundle

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
    """What an artifact holds."""

    path: str
    format: str
    """ "torchscript", "onnx" or "aoti"."""
    versions: Mapping[str, str]
    """ "file format" of TorchScript, "ir" and operator sets of ONNX, what native code requires."""
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
    precision: str = ""
    """As the bundle says; empty for a file outside of one."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"schema": "isthmus-inspect", "version": 2, **asdict(self)}

    def print(self, console: Console, *, code: bool = False) -> None:
        """Tables for people."""
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


_TITLES = {"torchscript": "TorchScript", "onnx": "ONNX", "aoti": "AOTInductor, native code"}


def _line(hazard: Hazard) -> str:
    return f"{hazard.message} ({hazard.where})" if hazard.where else hazard.message


def inspect(
    path: str | Path,
    *,
    submodule: str = "",
    graph: bool = False,
    artifact: str = "",
) -> Inspection:
    """Looks into an artifact of a bundle, or into a TorchScript or ONNX file.

    Args:
        path: A bundle, a file that `torch.jit.save` wrote, or an ONNX file.
        submodule: Only the code and the graph of this dotted submodule of a TorchScript artifact.
        graph: Also load the TorchScript module, when the scanner lets it pass, and print its graph.
        artifact: Of the bundle; the first one when empty, the first TorchScript one when
            `submodule` or `graph` asks for it.

    Raises:
        BundleError: It is something else or damaged; or the graph is asked for, and the scanner
            refuses the archive.
        InvalidInput: There is no such artifact or submodule, or it has neither.
    """
    from isthmus import _core

    root = Path(path)
    inside = bool(submodule or graph)
    if not root.is_dir():
        if _core.identify_file(root).kind == "onnx" and not inside:
            return _inspect_onnx(root.read_bytes(), str(root), None, None)
        archive = read_archive(root, "a bundle, a TorchScript archive or an ONNX file")
        return _inspect_torchscript(archive, str(root), None, submodule, graph=graph)
    bundle, chosen = _of_bundle(root, artifact, torchscript=inside)
    found = _inspect_artifact(bundle, chosen, submodule, graph=graph)
    return replace(found, precision=chosen.precision)


def _inspect_artifact(
    bundle: Bundle, chosen: Artifact, submodule: str, *, graph: bool
) -> Inspection:
    label = str(bundle.path / chosen.files[0].path)
    if chosen.format == "torchscript":
        content = bundle.read(chosen.files[0])
        return _inspect_torchscript(content, label, bundle.manifest, submodule, graph=graph)
    if submodule or graph:
        raise InvalidInput(
            f'artifact "{chosen.name}" is {chosen.format}; submodules and graphs can be printed of '
            "a TorchScript one"
        )
    if chosen.format == "onnx":
        return _inspect_onnx(bundle.read(chosen.files[0]), label, bundle.manifest, chosen)
    return _from_manifest(label, bundle.manifest, chosen)


def _inspect_torchscript(
    archive: bytes, label: str, manifest: Manifest | None, submodule: str, *, graph: bool
) -> Inspection:
    from isthmus import _core

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
        format="torchscript",
        versions={"file format": str(scan.file_format_version)},
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
        refused=_refused(known.findings),
        code=code,
        graph=text,
    )


def _inspect_onnx(
    file: bytes, label: str, manifest: Manifest | None, artifact: Artifact | None
) -> Inspection:
    from isthmus import _core

    beside = {Path(file.path).name for file in artifact.files} if artifact is not None else set()
    owners = {"": "ONNX", "ai.onnx.ml": "ONNX", "com.microsoft": "ONNX Runtime"} | _owners(manifest)
    scan = _core.scan_onnx(file, beside, set(_owners(manifest)))
    if manifest is None:
        inputs = {"forward": tuple(Value(name, "") for name in scan.inputs)}
        outputs = {"forward": tuple(Value(name, "") for name in scan.outputs)}
    else:
        inputs, outputs = _values(manifest, {})
    return Inspection(
        path=label,
        format="onnx",
        versions={
            "ir": str(scan.ir_version),
            **{f"opset {name or 'ai.onnx'}": str(opset) for name, opset in scan.opsets.items()},
        },
        inputs=inputs,
        outputs=outputs,
        operators=tuple(
            OperatorUse(name, count, owners.get(name.rpartition("::")[0], "the model or unknown"))
            for name, count in sorted(scan.operators.items())
        ),
        constants=(),
        literals=(),
        refused=_refused(scan.findings),
    )


def _from_manifest(label: str, manifest: Manifest, artifact: Artifact) -> Inspection:
    inputs, outputs = _values(manifest, {})
    return Inspection(
        path=label,
        format=artifact.format,
        versions=dict(artifact.requires),
        inputs=inputs,
        outputs=outputs,
        operators=(),
        constants=(),
        literals=(),
        refused=(f'it needs trust "{artifact.trust}", and cannot be read before it is run',),
    )


def _refused(findings: Sequence[_core.Finding]) -> tuple[str, ...]:
    return tuple(f"{finding.what} ({finding.where})" for finding in findings if finding.refused)


def _of_bundle(root: Path, artifact: str, *, torchscript: bool) -> tuple[Bundle, Artifact]:
    from isthmus.bundle.bundle import open_bundle

    bundle = open_bundle(root)
    if artifact:
        return bundle, bundle.artifact(artifact)
    if not torchscript:
        return bundle, bundle.manifest.artifacts[0]
    scripted = [
        artifact for artifact in bundle.manifest.artifacts if artifact.format == "torchscript"
    ]
    if not scripted:
        raise InvalidInput(f"{root} has no TorchScript artifact, whose graph could be printed")
    return bundle, scripted[0]


def _load(archive: bytes, label: str, scan: _core.ArchiveScan) -> torch.jit.ScriptModule:
    from isthmus.exporters.check import load_bytes
    from isthmus.exporters.quiet_torch import quiet_torch

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
        parts = [
            part.strip() for part in found["inputs"].lstrip(",\n ").split(",\n") if part.strip()
        ]
        inputs[found["name"]] = tuple(
            Value(*(piece.strip() for piece in part.partition(":")[::2])) for part in parts
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
    from isthmus.exporters.torchscript.operators import CORE_NAMESPACES

    namespace = name.partition("::")[0]
    return owners.get(namespace, "LibTorch" if namespace in CORE_NAMESPACES else "unknown")
