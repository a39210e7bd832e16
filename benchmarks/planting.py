"""Bundles whose artifacts have a fault, or other goldens, behind the back of every check."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from faults import Subject
from torch import nn

import isthmus
from isthmus import _core
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.capture.capture import Captured, capture
from isthmus.exporters.export_request import Subject as Exportable
from isthmus.exporters.formats import artifact_exporters
from isthmus.exporters.torchscript.strategies import export_torchscript
from isthmus.goldens.make import make_goldens
from isthmus.runtime import install_paths


@dataclass(frozen=True)
class Verdict:
    """What `isthmus-run verify` said of one engine."""

    engine: str
    passed: bool
    distance: float
    """Largest RMS error to float64 of any output, in units of eager's own."""
    strain: float
    """Of the allowed error, the largest share: above 1 it failed."""
    statistic: str
    """The one with that share."""
    reason: str


def export(subject: Subject, path: Path, formats: Sequence[str]) -> Bundle:
    """The model as it is."""
    return isthmus.export(
        subject.module,
        (),
        dict(subject.inputs),
        path=path,
        dynamic={name: dict(axes) for name, axes in subject.dynamic.items()},
        dims=dict(subject.dims),
        formats=formats,
        overwrite=True,
    )


def captured(subject: Subject, module: nn.Module) -> Captured:
    """What the exporters start from."""
    return capture(
        module,
        (),
        dict(subject.inputs),
        dynamic={name: dict(axes) for name, axes in subject.dynamic.items()},
        dims=dict(subject.dims),
    )


def plant(
    bundle: Bundle, subject: Subject, faulty: nn.Module, path: Path, folder: Path
) -> tuple[Bundle, dict[str, str]]:
    """A copy of the bundle with the faulty model's artifacts in place of the right ones.

    No goldens are given to the exporters, so that nothing is refused for its answers.

    Returns:
        The bundle, and by format why it could not be planted.
    """
    shutil.copytree(bundle.path, path, dirs_exist_ok=True)
    try:
        taken = captured(subject, faulty)
    except isthmus.Error as error:
        # Such a model is refused before there is anything to verify; here it is forced through.
        right = captured(subject, subject.module)
        taken = Captured(**{**vars(right), "module": faulty})
        print(f"  export refuses it: {str(error)[:200]}")
    taken = Captured(**{**vars(taken), "methods": bundle.manifest.methods})
    makers: dict[str, Any] = artifact_exporters(
        Exportable(
            methods=taken.methods,
            examples=taken.examples,
            axes=taken.dynamic,
            dims=taken.dims,
            goldens=(),
            tolerances={},
            module=taken.module,
        ),
        folder,
    )
    failed: dict[str, str] = {}
    for artifact in bundle.manifest.artifacts:
        files = [path / file.path for file in artifact.files]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if artifact.format == "torchscript":
                    made = export_torchscript(taken, (), {}, strategy="trace")
                    files[0].write_bytes(made.archive)
                else:
                    one = makers[artifact.format](lambda _: None)
                    for source, target in zip(one.files, files, strict=True):
                        shutil.copyfile(source, target)
        except Exception as error:
            failed[artifact.format] = f"{type(error).__name__}: {error}".splitlines()[0]
    restamp(path)
    return open_bundle(path), failed


def reseed(bundle: Bundle, taken: Captured, path: Path, seed: int) -> Bundle:
    """A copy of the bundle with goldens of other values."""
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
    """Writes the sizes and digests of what lies there now into the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    entries = [one for artifact in manifest["artifacts"] for one in artifact["files"]]
    entries += [one["file"] for one in manifest["goldens"]]
    for entry in entries:
        content = (path / entry["path"]).read_bytes()
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        entry.pop("chunks", None)
    (path / "manifest.json").write_text(json.dumps(manifest))


def engines(formats: Iterable[str]) -> list[tuple[str, str]]:
    """(format, engine) that can run here."""
    return [
        (name, engine_name)
        for name in formats
        for engine_name in _core.engine_names()
        if name in _core.engine_formats(engine_name)
    ]


def verify(path: Path, engine: str, threads: int = 2) -> Verdict:
    """The verdict of a process without Python."""
    command = [
        str(install_paths.binary()),
        "verify",
        str(path),
        "--engine",
        engine,
        "--allow-native",
    ]
    done = subprocess.run(
        [*command, "--allow-native", "--json", "--threads", str(threads)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        document = json.loads(done.stdout)
    except ValueError:
        # It died of it, as code of AOTInductor does of an index that is out of range.
        return Verdict(engine, False, 0.0, 0.0, "", done.stderr.strip()[-300:])
    if "error" in document:
        # What was not run was not caught.
        sys.exit(f"no verdict on {path} by {engine}: {document['error']['message']}")
    rows = [row for row in document["rows"] if row["output"] is not None]
    worst = max(rows, key=lambda row: row["strain"] if row["strain"] is not None else 1e300)
    reasons = [row.get("reason") or row.get("error") for row in document["rows"]]
    return Verdict(
        engine,
        done.returncode == 0,
        max(row["noise_units"] for row in rows),
        worst["strain"] if worst["strain"] is not None else 1e300,
        worst["statistic"],
        next((str(reason) for reason in reasons if reason), ""),
    )


def one_ulp(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each element one unit in the last place up or down."""
    up = torch.nextafter(value, torch.full_like(value, torch.inf))
    down = torch.nextafter(value, torch.full_like(value, -torch.inf))
    return torch.where(torch.rand(value.shape, generator=generator) < 0.5, up, down)
