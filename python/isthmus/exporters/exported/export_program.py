"""The exported format: a program of `torch.export`, as `torch.export.save` writes it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch.export import ExportedProgram

from isthmus.bundle.manifest import Artifact, Method
from isthmus.errors import ExportError
from isthmus.exporters.attempts import (
    Explain,
    ExportAttempt,
    Verified,
    fallback_hazards,
    first_that_verifies,
)
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.exported.scan_program import scan_program
from isthmus.exporters.exported_program import export_module, export_scripted
from isthmus.exporters.first_difference import first_difference
from isthmus.exporters.remedies import with_remedies
from isthmus.exporters.torchscript.operators import custom_operators, find_libraries
from isthmus.runtime.file_engines import ExportedEngine

__all__ = ["export_program"]

_PREFIXES = ("holder.module.", "module.", "")
"""What stands before the names of the module's tensors: the modules around it in each attempt."""

Export = Callable[[ExportRequest, Method, str], ExportedProgram]


def export_program(request: ExportRequest) -> ExportedArtifact:
    """Exports the model with `torch.export`; what does not verify is refused.

    The attempts are, in order: "export" (`torch.export` of the module), "strict" (the same, with
    the module's Python analysed instead of run), "decomposed" (in fewer operators, without writes)
    and "converter" (TorchScript converted to `torch.export`, control flow included).

    Raises:
        ExportError: No attempt verified; its `decisions` say why.
    """
    if request.stateful and len(request.methods) > 1:
        raise ExportError(
            "the model has state and several methods, and each method is a program of its own, "
            "which would have a state of its own; export one method, or stay with TorchScript"
        )
    name = f"exported-{request.device_type}-{request.precision}"
    files = request.method_files(name, ".pt2")
    verified = first_that_verifies(
        _ATTEMPTS, request, files, request.check(request.device), ExportedEngine
    )
    paths = [path for _, path in files]
    return ExportedArtifact(_artifact(request, name, paths, verified), tuple(paths))


def _decomposed(request: ExportRequest, method: Method, device: str) -> ExportedProgram:
    """Exports a method, and writes it in fewer operators, none of which writes an argument."""
    program = export_module(request, method, device)
    return cast(ExportedProgram, program.run_decompositions({}))


def _write(export: Export, request: ExportRequest, method: Method, path: Path) -> Explain:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = export(request, method, request.device)
        # Example inputs are stored as a pickle, which C++ does not read.
        program.example_inputs = None
        path.unlink(missing_ok=True)
        torch.export.save(program, path)
    _require_readable(path, request.options.trust)
    return partial(first_difference, program, method, module=request.module)


_ATTEMPTS = (
    ExportAttempt("export", partial(_write, export_module), "module", "torch.export"),
    ExportAttempt(
        "strict",
        partial(_write, partial(export_module, strict=True)),
        "module",
        "torch.export, strict",
    ),
    ExportAttempt("decomposed", partial(_write, _decomposed), "module", "torch.export, decomposed"),
    ExportAttempt(
        "converter",
        partial(_write, export_scripted),
        "torchscript",
        "TorchScript converted to torch.export",
    ),
)


def _require_readable(path: Path, trust: str) -> None:
    """Requires that the scan which C++ runs before loading accepts the file.

    Raises:
        ExportError: It does not; says which operator or what else, and where.
    """
    refused = [
        finding
        for finding in scan_program(path.read_bytes()).findings
        if finding.refused and not (trust == "native" and finding.kind == "operator")
    ]
    if refused:
        error = ExportError(f"{refused[0].what}, so no C++ process would load the program")
        error.where = refused[0].where
        raise error


def _artifact(request: ExportRequest, name: str, paths: list[Path], verified: Verified) -> Artifact:
    operators: Counter[str] = Counter()
    tensors: set[str] = set()
    refused = False
    for path in paths:
        scan = scan_program(path.read_bytes())
        operators.update(scan.operators)
        tensors.update(scan.tensors)
        refused = refused or scan.refused
    own_devices = ("cpu", "cuda") if request.device_type == "cpu" else (request.device_type,)
    return Artifact(
        name=name,
        format="exported",
        device=request.device_type,
        devices=own_devices,
        precision=request.precision,
        trust="native" if refused else "graph",
        convention="flat",
        strategy=verified.decisions[-1].strategy,
        files=(),
        requires={"torch": str(torch.__version__)},
        op_libraries=find_libraries(custom_operators(operators), request.options.op_libraries),
        operators=dict(sorted(operators.items())),
        tolerances=dict(request.tolerances),
        state=_state(request, tensors),
        sizes=verified.sizes,
        decisions=verified.decisions,
        hazards=with_remedies(fallback_hazards("the program", verified)),
    )


def _state(request: ExportRequest, tensors: Collection[str]) -> tuple[str, ...]:
    """Returns the names that the programs give to the attributes that calls change."""
    names = (f"{prefix}{attribute}" for attribute in request.state for prefix in _PREFIXES)
    return tuple(name for name in names if name in tensors)
