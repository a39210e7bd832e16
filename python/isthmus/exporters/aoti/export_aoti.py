"""The aoti format: native code by AOTInductor, of the module or of its TorchScript."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from isthmus.bundle.manifest import Artifact, Hazard
from isthmus.errors import Decision, ExportError, InvalidInput
from isthmus.exporters.aoti.exported_program import export_module, export_scripted
from isthmus.exporters.attempts import ExportAttempt, first_that_verifies
from isthmus.exporters.check import Verdict, check_calls
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.runtime.python_calls import AotiCall

__all__ = ["ISAS", "export_aoti"]

ISAS = ("portable", "avx2", "avx512", "native")

_NEEDED = {
    "avx2": ("avx2", "fma", "f16c"),
    "avx512": ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
}
"""Instruction sets that the compiled code may use, as `isthmus-run doctor` names them."""
_MARCH = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}
_BITS = {"avx2": 256, "avx512": 512}


def export_aoti(
    subject: ExportRequest,
    folder: Path,
    *,
    isa: str = "portable",
    progress: Callable[[str], None] = lambda _: None,
) -> ExportedArtifact:
    """Compiles the model with AOTInductor; what does not verify is refused.

    Ways, in order: "export" (`torch.export` of the module), "converter" (TorchScript to
    `torch.export`, control flow included).

    Args:
        subject: The model.
        folder: Where the package is written.
        isa: For which processors: "portable" (AVX2 on x86-64, the compiler's own baseline
            elsewhere), "avx2", "avx512", or "native" (this processor).
        progress: Called with a sentence at each stage.

    Raises:
        InvalidInput: This machine cannot run what was asked for, so it could not be proven.
        ExportError: No way verified; its `decisions` say why.
    """
    if subject.stateful:
        raise ExportError(
            "the model has state, which a compiled package does not keep; take the state as inputs "
            "and give it back as outputs, or stay with TorchScript"
        )
    needed = _instruction_sets(isa) if subject.kind == "cpu" else ()
    name = f"aoti-{subject.kind}-{subject.precision}"
    configs = _configs(isa, subject.kind)

    def compile_with(each: Callable[..., Any], given: ExportRequest) -> list[Path]:
        files = []
        for index, method in enumerate(subject.methods):
            stem = name if index == 0 else f"{name}.{method.name}"
            path = folder / f"{stem}.pt2"
            path.unlink(missing_ok=True)
            program = each(given, method, subject.device)
            progress("Compiling (a minute for a model of 100 MB)")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(path), inductor_configs=configs
                )
            files.append(path)
        return files

    def prove(files: Sequence[Path]) -> Verdict:
        return check_calls(
            lambda: AotiCall(files, subject.methods),
            subject.methods,
            subject.goldens,
            subject.tolerances,
            device=subject.device,
            calls_each=2,
            least_cosine=subject.least_cosine,
        )

    attempts = [
        ExportAttempt("export", partial(compile_with, export_module), "module", "torch.export"),
        ExportAttempt(
            "converter",
            partial(compile_with, export_scripted),
            "script",
            "TorchScript converted to torch.export",
        ),
    ]
    files, decisions = first_that_verifies(attempts, subject, prove, progress)
    return ExportedArtifact(_artifact(subject, name, decisions, needed), tuple(files))


def _instruction_sets(isa: str) -> tuple[str, ...]:
    """What the code will need, as the manifest keeps it; this machine has all of it.

    Raises:
        InvalidInput: It has not.
    """
    from isthmus import _core

    if isa not in ISAS:
        raise InvalidInput(f"isa: expected {', '.join(ISAS)}, got {isa!r}")
    present = tuple(_core.this_machine().isa)
    if isa == "native":
        return present
    if platform.machine() != "x86_64":
        if isa == "portable":
            return ()
        raise InvalidInput(f'isa="{isa}" is for x86-64, this machine is {platform.machine()}')
    needed = _NEEDED["avx2" if isa == "portable" else isa]
    missing = [one for one in needed if one not in present]
    if missing:
        raise InvalidInput(
            f'isa="{isa}": this processor lacks {", ".join(missing)}, so the code could not be '
            "proven here; export on a machine that has it, or use another isa"
        )
    return needed


def _configs(isa: str, kind: str) -> dict[str, Any]:
    """AOTInductor's settings: threads told at run time, and the processors it compiles for."""
    configs: dict[str, Any] = {"cpp.dynamic_threads": True}
    level = "avx2" if isa == "portable" else isa
    if kind == "cpu" and platform.machine() == "x86_64" and level != "native":
        import torch._inductor.config as inductor

        configs["cpp.simdlen"] = _BITS[level]
        if not hasattr(inductor.cpp, "march"):  # before torch 2.12
            raise InvalidInput(
                f"isa={isa!r}: torch {torch.__version__} compiles for this processor only; pass "
                'isa="native", or use torch 2.12 or newer'
            )
        configs["cpp.march"] = _MARCH[level]
    return configs


def _artifact(
    subject: ExportRequest, name: str, decisions: Sequence[Decision], needed: Sequence[str]
) -> Artifact:
    requires = {"torch": str(torch.__version__), "machine": platform.machine()}
    if needed:
        requires["isa"] = " ".join(needed)
    if subject.kind == "cuda":
        major, minor = torch.cuda.get_device_capability(subject.device)
        requires["cuda_arch"] = f"{major}.{minor}"
    used = next(decision for decision in decisions if decision.accepted)
    hazards = tuple(
        Hazard(
            "fallback",
            "info",
            f"the package was made by way of {used.strategy}, for {decision.strategy} gave none: "
            f"{decision.reason}",
            decision.where,
        )
        for decision in decisions
        if not decision.accepted
    )
    return Artifact(
        name=name,
        format="aoti",
        device=subject.kind,
        devices=(subject.kind,),
        precision=subject.precision,
        trust="native",
        convention="flat",
        strategy=used.strategy,
        files=(),
        requires=requires,
        tolerances=dict(subject.tolerances),
        decisions=tuple(decisions),
        hazards=hazards,
    )
