"""Inspects artifacts: operators and who owns them, constants, literals, code and graphs.

The scanners read a TorchScript archive as text and an ONNX file as a protocol buffer; native code
is described by the manifest. Nothing is executed. Only the graph of TorchScript needs the module
loaded by torch, after the scanner has let it pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from isthmus.bundle.manifest import Artifact, Hazard, Manifest
from isthmus.errors import BundleError, InvalidInput
from isthmus.exporters.exported.scan_program import scan_program
from isthmus.exporters.torchscript.archive import read_archive
from isthmus.proof.inspection import Inspection, OperatorUse, Value
from isthmus.proof.method_values import method_values

if TYPE_CHECKING:
    import torch

    from isthmus import _core
    from isthmus.bundle.bundle import Bundle

__all__ = ["Inspection", "OperatorUse", "Value", "inspect"]


def inspect(
    path: str | Path,
    *,
    submodule: str = "",
    graph: bool = False,
    artifact: str = "",
) -> Inspection:
    """Inspects an artifact of a bundle, a TorchScript or ONNX file, or an exported program.

    Args:
        path: A bundle, a file that `torch.jit.save` or `torch.export.save` wrote, or an ONNX file.
        submodule: Only the code and the graph of this dotted submodule of a TorchScript artifact.
        graph: Also keep the graph. A TorchScript module is loaded for it, if the scanner lets it
            pass; an exported program is not.
        artifact: The name of an artifact of the bundle; when empty, the first one, or the first
            TorchScript one if `submodule` or `graph` is given.

    Raises:
        BundleError: The path is something else or damaged; or the graph is asked for, and the
            scanner refuses the archive.
        InvalidInput: There is no such artifact or submodule, or the artifact is no TorchScript.
    """
    from isthmus import _core

    root = Path(path)
    inside = bool(submodule or graph)
    if not root.is_dir():
        kind = _core.identify_file(root).kind
        if kind == "onnx" and not inside:
            return _inspect_onnx(root.read_bytes(), str(root), None, None)
        if kind == "exported_program" and not submodule:
            return _inspect_program(root.read_bytes(), str(root), None, graph=graph)
        archive = read_archive(
            root, "a bundle, a TorchScript archive, an exported program or an ONNX file"
        )
        return _inspect_torchscript(archive, str(root), None, submodule, graph=graph)
    bundle, chosen = _choose_artifact(root, artifact, torchscript=inside)
    inspection = _inspect_artifact(bundle, chosen, submodule, graph=graph)
    return replace(
        inspection,
        precision=chosen.precision,
        proofs=chosen.proofs,
        sizes=chosen.sizes_text,
    )


def _inspect_artifact(
    bundle: Bundle, chosen: Artifact, submodule: str, *, graph: bool
) -> Inspection:
    label = str(bundle.path / chosen.files[0].path)
    if chosen.format == "torchscript":
        content = bundle.read(chosen.files[0])
        return _inspect_torchscript(content, label, bundle.manifest, submodule, graph=graph)
    if chosen.format == "exported" and not submodule:
        return _inspect_program(bundle.read(chosen.files[0]), label, bundle.manifest, graph=graph)
    if submodule or graph:
        raise InvalidInput(
            f'artifact "{chosen.name}" is {chosen.format}; submodules can be printed of a '
            "TorchScript artifact, graphs also of an exported program"
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
        module = _load_archive(archive, label, scan if manifest is None else known)
        text, code = _submodule(module, submodule, code, graph=graph)
    inputs, outputs = method_values(manifest, scan.code)
    owners = _owners(manifest)
    return Inspection(
        path=label,
        format="torchscript",
        versions={"file format": str(scan.file_format_version)},
        inputs=inputs,
        outputs=outputs,
        operators=tuple(
            OperatorUse(name, count, _library_of(name, owners))
            for name, count in sorted(scan.operators.items())
            if not name.startswith("prim::")
        ),
        constants=tuple(finding.what for finding in scan.findings if finding.kind == "constant"),
        literals=tuple(
            Hazard(finding.kind, "info", finding.what, finding.where)
            for finding in scan.findings
            if finding.kind in ("device_literal", "dtype_literal")
        ),
        refused=_refused(known.findings),
        code=code,
        graph=text,
    )


def _inspect_program(
    archive: bytes, label: str, manifest: Manifest | None, *, graph: bool
) -> Inspection:
    scan = scan_program(archive)
    owners = _owners(manifest)
    inputs, outputs = method_values(manifest, {})
    return Inspection(
        path=label,
        format="exported",
        versions={
            "torch": scan.torch_version,
            "export schema": ".".join(map(str, scan.schema_version)),
        },
        inputs=inputs,
        outputs=outputs,
        operators=tuple(
            OperatorUse(name, count, _library_of(name, owners))
            for name, count in sorted(scan.operators.items())
        ),
        constants=(),
        literals=(),
        refused=_refused(scan.findings),
        graph=scan.graph if graph else "",
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
        inputs, outputs = method_values(manifest, {})
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
    inputs, outputs = method_values(manifest, {})
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


def _choose_artifact(root: Path, artifact: str, *, torchscript: bool) -> tuple[Bundle, Artifact]:
    from isthmus.bundle.bundle import open_bundle

    bundle = open_bundle(root)
    if artifact:
        return bundle, bundle.artifact(artifact)
    if not torchscript:
        return bundle, bundle.manifest.artifacts[0]
    for format in ("torchscript", "exported"):
        for candidate in bundle.manifest.artifacts:
            if candidate.format == format:
                return bundle, candidate
    raise InvalidInput(f"{root} has no TorchScript or exported program to print the graph of")


def _load_archive(archive: bytes, label: str, scan: _core.ArchiveScan) -> torch.jit.ScriptModule:
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


def _owners(manifest: Manifest | None) -> dict[str, str]:
    owners: dict[str, str] = {}
    for artifact in manifest.artifacts if manifest is not None else ():
        for library in artifact.op_libraries:
            owners[library.namespace] = library.library or "unknown"
    return owners


def _library_of(name: str, owners: Mapping[str, str]) -> str:
    from isthmus.exporters.torchscript.operators import CORE_NAMESPACES

    namespace = name.partition("::")[0]
    return owners.get(namespace, "LibTorch" if namespace in CORE_NAMESPACES else "unknown")
