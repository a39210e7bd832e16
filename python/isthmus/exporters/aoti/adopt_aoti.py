"""Adopts an AOTInductor package: it is opened, called with a user's example, and kept as it is."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from isthmus.bundle.manifest import Artifact
from isthmus.errors import BundleError, Decision, InvalidInput
from isthmus.exporters.aoti.aoti_file import AotiFile
from isthmus.exporters.aoti.export_aoti import NEEDED
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.file_notes import notes_of_file
from isthmus.exporters.remedies import with_remedies

__all__ = ["adopted_aoti", "open_aoti", "refuse_unchecked_sizes"]


def open_aoti(path: Path, folder: Path, trust: str) -> AotiFile:
    """Opens a copy of a package.

    Args:
        path: The package.
        folder: An empty folder for the copy, which the module keeps using.
        trust: "native", because the package is native code.

    Raises:
        BundleError: It is not trusted, or torch cannot open it.
    """
    if trust != "native":
        raise BundleError(
            f"{path} is an AOTInductor package, which is native code; if you trust it as you would "
            'a program, pass trust="native" (--trust native)'
        )
    copy = folder / "aoti-cpu-fp32.pt2"
    shutil.copyfile(path, copy)
    return AotiFile(copy, str(path))


def refuse_unchecked_sizes(
    model: AotiFile, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic: object
) -> None:
    """Refuses dynamic dimensions of a package that takes any input without checking it.

    Raises:
        InvalidInput: The package answers also for inputs that it was not compiled for, so that no
            call could tell at which sizes it is right.
    """
    if dynamic and not model.checks_inputs(args, kwargs):
        raise InvalidInput(
            "dynamic: the package does not check the sizes of its inputs, so nothing tells which "
            "it was compiled for; leave dynamic out, or compile it again with a newer torch"
        )


def adopted_aoti(model: AotiFile, request: ExportRequest) -> ExportedArtifact:
    """Returns the package as an artifact, with what the manifest says of it."""
    reason = f"the package as it is; its own answers, by {model.reference}, are the reference"
    requires = {"torch": str(torch.__version__), "machine": platform.machine()}
    instructions = model.metadata.get("AOTI_CPU_ISA", "").upper()
    for name in ("avx512", "avx2"):
        if name.upper() in instructions:
            requires["isa"] = " ".join(NEEDED[name])
            break
    artifact = Artifact(
        name=model.file.stem,
        format="aoti",
        device="cpu",
        devices=("cpu",),
        precision=request.precision,
        trust="native",
        convention="flat",
        strategy="adopted",
        files=(),
        requires=requires,
        tolerances=dict(request.tolerances),
        decisions=(Decision("adopted", True, reason),),
        hazards=with_remedies(notes_of_file(model, request.notes)),
    )
    return ExportedArtifact(artifact, (model.file,))
