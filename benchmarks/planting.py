"""Bundles whose artifacts have a fault or whose goldens have other values, past every check."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from hf_models import Example
from shared import native_verify
from torch import nn

import isthmus
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.capture.capture import Captured, capture
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.options import ExportOptions, ignore_progress
from isthmus.exporters.plan import export_artifact
from isthmus.goldens.make import make_goldens


@dataclass(frozen=True)
class Verdict:
    """The verdict of `isthmus-run verify` on one engine."""

    engine: str
    passed: bool
    distance: float
    """The largest RMS error to float64 of any output, in units of eager's own."""
    strain: float
    """The largest share of the allowed error; above 1 it failed."""
    statistic: str
    """The statistic with that share."""
    reason: str


def export(example: Example, path: Path, formats: Sequence[str]) -> Bundle:
    """Exports the unchanged model."""
    return isthmus.export(
        example.module, **example.call, path=path, formats=formats, overwrite=True
    )


def plant(
    bundle: Bundle, example: Example, faulty: nn.Module, path: Path, folder: Path
) -> tuple[Bundle, dict[str, str]]:
    """Copies the bundle and replaces its artifacts by those of the faulty model.

    The exporters get no goldens, so that they refuse nothing for its answers.

    Returns:
        The bundle, and by format the reason why it could not be planted.
    """
    shutil.copytree(bundle.path, path, dirs_exist_ok=True)
    try:
        taken = capture(faulty, **example.call)
    except isthmus.Error as error:
        # Export refuses such a model; the benchmark forces it through.
        right = capture(example.module, **example.call)
        taken = Captured(**{**vars(right), "module": faulty})
        print(f"  export refuses it: {str(error)[:200]}")
    taken = Captured(**{**vars(taken), "methods": bundle.manifest.methods})
    request = ExportRequest(
        methods=taken.methods,
        examples=taken.examples,
        axes=taken.dynamic,
        dims=taken.dims,
        goldens=(),
        tolerances={},
        folder=folder,
        module=taken.module,
        options=ExportOptions(strategy="trace"),
    )
    failed: dict[str, str] = {}
    for artifact in bundle.manifest.artifacts:
        files = [path / file.path for file in artifact.files]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exported = export_artifact(artifact.format, request, ignore_progress)
                for source, target in zip(exported.files, files, strict=True):
                    shutil.copyfile(source, target)
        except Exception as error:
            failed[artifact.format] = f"{type(error).__name__}: {error}".splitlines()[0]
    restamp(path)
    return open_bundle(path), failed


def reseed(bundle: Bundle, taken: Captured, path: Path, seed: int) -> Bundle:
    """Copies the bundle and replaces its goldens by those of another seed."""
    shutil.copytree(bundle.path, path, dirs_exist_ok=True)
    goldens, _, _ = make_goldens(taken, seed=seed)
    names = {golden.name for golden in bundle.manifest.goldens}
    for golden in goldens:
        if golden.name not in names:
            continue
        tensors = {
            f"{at}/{side}/{name}": value.contiguous()
            for at, step in enumerate(golden.steps)
            for side, values in (
                ("in", step.inputs),
                ("out", step.outputs),
                ("error", step.errors),
            )
            for name, value in values.items()
        }
        safetensors.torch.save_file(tensors, path / "goldens" / f"{golden.name}.safetensors")
    restamp(path)
    return open_bundle(path)


def restamp(path: Path) -> None:
    """Writes the sizes and digests of the current files into the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    entries = [entry for artifact in manifest["artifacts"] for entry in artifact["files"]]
    entries += [golden["file"] for golden in manifest["goldens"]]
    for entry in entries:
        content = (path / entry["path"]).read_bytes()
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        entry.pop("chunks", None)
    (path / "manifest.json").write_text(json.dumps(manifest))


def verify(path: Path, engine: str, threads: int = 2) -> Verdict:
    """Returns the verdict of a process without Python."""
    code, document, errors = native_verify(path, "--engine", engine, "--threads", str(threads))
    if document is None:
        # Code of AOTInductor dies of an index that is out of range.
        return Verdict(engine, False, 0.0, 0.0, "", errors.strip()[-300:])
    if "error" in document:
        sys.exit(f"no verdict on {path} by {engine}: {document['error']['message']}")
    rows = [row for row in document["rows"] if row["output"] is not None]
    worst = max(rows, key=lambda row: row["strain"] if row["strain"] is not None else 1e300)
    reasons = [row.get("reason") or row.get("error") for row in document["rows"]]
    return Verdict(
        engine,
        code == 0,
        max(row["noise_units"] for row in rows),
        worst["strain"] if worst["strain"] is not None else 1e300,
        worst["statistic"],
        next((str(reason) for reason in reasons if reason), ""),
    )


def one_ulp(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Moves each element by one unit in the last place, up or down."""
    up = torch.nextafter(value, torch.full_like(value, torch.inf))
    down = torch.nextafter(value, torch.full_like(value, -torch.inf))
    return torch.where(torch.rand(value.shape, generator=generator) < 0.5, up, down)
