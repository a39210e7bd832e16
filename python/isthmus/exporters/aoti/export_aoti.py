"""The aoti format: native code by AOTInductor, of the module or of its TorchScript."""

from __future__ import annotations

import json
import platform
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from isthmus.bundle.manifest import Artifact, Method
from isthmus.errors import InvalidInput
from isthmus.exporters.aoti.exact_operators import with_exact_operators
from isthmus.exporters.attempts import (
    Explain,
    ExportAttempt,
    Verified,
    fallback_hazards,
    first_that_verifies,
)
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.exported_program import export_module, export_scripted
from isthmus.exporters.first_difference import first_difference
from isthmus.exporters.refused_models import refuse_quantised, refuse_state
from isthmus.exporters.remedies import with_remedies
from isthmus.exporters.torchscript.operators import custom_operators, find_libraries
from isthmus.runtime.file_engines import AotiEngine

__all__ = ["NEEDED", "export_aoti"]

NEEDED = {
    "avx2": ("avx2", "fma", "f16c"),
    "avx512": ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
}
"""Instruction sets that the compiled code may use, as `isthmus-run doctor` names them."""
_MARCH = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}
_BITS = {"avx2": 256, "avx512": 512}


def export_aoti(request: ExportRequest) -> ExportedArtifact:
    """Compiles the model with AOTInductor; what does not verify is refused.

    The attempts are, in order: "export" (`torch.export` of the module) and "converter" (TorchScript
    converted to `torch.export`, control flow included).

    Raises:
        InvalidInput: This machine cannot run the code that was asked for, so nothing could be
            proven.
        ExportError: No attempt verified; its `decisions` say why.
    """
    refuse_state(request, "a compiled package")
    refuse_quantised(request, "a compiled package")
    on_cpu = request.device_type == "cpu"
    needed = _instruction_sets(request.options.isa) if on_cpu else ()
    _configs(request)  # refuses what this torch cannot compile before anything is exported
    name = f"aoti-{request.device_type}-{request.precision}"
    files = request.method_files(name, ".pt2")
    paths = [path for _, path in files]
    verified = first_that_verifies(
        _ATTEMPTS, request, files, request.check(request.device), AotiEngine
    )
    called = Counter(operator for path in paths for operator in _called_operators(path))
    custom = {operator: called[operator] for operator in custom_operators(called)}
    libraries = find_libraries(custom, request.options.op_libraries)
    artifact = _artifact(request, name, verified, needed)
    artifact = replace(artifact, operators=custom, op_libraries=libraries)
    return ExportedArtifact(artifact, tuple(paths))


def _called_operators(package: Path) -> list[str]:
    """Returns the operators that the compiled code calls through LibTorch's dispatcher."""
    called = []
    with zipfile.ZipFile(package) as members:
        for name in members.namelist():
            if name.endswith(".wrapper.json"):
                nodes = json.loads(members.read(name)).get("nodes", [])
                called += [node["node"]["target"].split(".", 1)[0] for node in nodes]
    return called


def _compile(
    export: Callable[[ExportRequest, Method, str], torch.export.ExportedProgram],
    request: ExportRequest,
    method: Method,
    path: Path,
) -> Explain:
    path.unlink(missing_ok=True)
    program = export(request, method, request.device)
    request.progress("Compiling (a minute for a model of 100 MB)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = with_exact_operators(program)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=_configs(request)
        )
    # The values inside compiled code cannot be seen, but the program's own can.
    return partial(first_difference, program, method, module=request.module)


_ATTEMPTS = (
    ExportAttempt("export", partial(_compile, export_module), "module", "torch.export"),
    ExportAttempt(
        "converter",
        partial(_compile, export_scripted),
        "torchscript",
        "TorchScript converted to torch.export",
    ),
)


def _instruction_sets(isa: str) -> tuple[str, ...]:
    """Returns the instruction sets that the code needs, for the manifest.

    Raises:
        InvalidInput: This processor lacks some of them.
    """
    from isthmus import _core

    present = tuple(_core.this_machine().isa)
    if isa == "native":
        return present
    if platform.machine() != "x86_64":
        if isa == "portable":
            return ()
        raise InvalidInput(f'isa="{isa}" is for x86-64, this machine is {platform.machine()}')
    needed = NEEDED["avx2" if isa == "portable" else isa]
    missing = [instruction_set for instruction_set in needed if instruction_set not in present]
    if missing:
        raise InvalidInput(
            f'isa="{isa}": this processor lacks {", ".join(missing)}, so the code could not be '
            "proven here; export on a machine that has it, or use another isa"
        )
    return needed


def _configs(request: ExportRequest) -> dict[str, Any]:
    """Returns AOTInductor's settings: the number of threads is set at run time, and the processors.

    Raises:
        InvalidInput: This torch compiles for its own processor only.
    """
    configs: dict[str, Any] = {"cpp.dynamic_threads": True}
    isa = request.options.isa
    target = "avx2" if isa == "portable" else isa
    if request.device_type == "cpu" and platform.machine() == "x86_64" and target != "native":
        import torch._inductor.config as inductor

        configs["cpp.simdlen"] = _BITS[target]
        if not hasattr(inductor.cpp, "march"):  # before torch 2.12
            raise InvalidInput(
                f"isa={isa!r}: torch {torch.__version__} compiles for this processor only; pass "
                'isa="native", or use torch 2.12 or newer'
            )
        configs["cpp.march"] = _MARCH[target]
    return configs


def _artifact(
    request: ExportRequest, name: str, verified: Verified, needed: Sequence[str]
) -> Artifact:
    requires = {"torch": str(torch.__version__), "machine": platform.machine()}
    if needed:
        requires["isa"] = " ".join(needed)
    if request.device_type == "cuda":
        major, minor = torch.cuda.get_device_capability(request.device)
        requires["cuda_arch"] = f"{major}.{minor}"
    return Artifact(
        name=name,
        format="aoti",
        device=request.device_type,
        devices=(request.device_type,),
        precision=request.precision,
        trust="native",
        convention="flat",
        strategy=verified.decisions[-1].strategy,
        files=(),
        requires=requires,
        tolerances=dict(request.tolerances),
        sizes=verified.sizes,
        decisions=verified.decisions,
        hazards=with_remedies(fallback_hazards("the package", verified)),
    )
