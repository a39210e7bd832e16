"""Bundles that isthmus 0.1.0 wrote load, verify, and give the same bits.

`data/bundles-0.1.0/make.py` wrote them. Their arithmetic on whole numbers is exact, so the bits do
not depend on the processor.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import isthmus
from isthmus import _core
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.bundle.manifest_json import dumps
from isthmus.capture.tree import flatten

BUNDLES = sorted(
    path.parent for path in Path(__file__).parent.glob("data/bundles-0.1.0/*/manifest.json")
)


def artifacts_and_engines() -> Iterator[tuple[Path, str, str]]:
    for folder in BUNDLES:
        for artifact in open_bundle(folder).manifest.artifacts:
            for engine in _core.engine_names():
                if artifact.format in _core.engine_formats(engine):
                    yield folder, artifact.name, engine


def test_the_three_bundles_are_there() -> None:
    assert [folder.name for folder in BUNDLES] == ["branching", "pool", "running"]
    size = sum(file.stat().st_size for folder in BUNDLES for file in folder.rglob("*"))
    assert size < 200_000


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_the_manifest_is_read_and_written_alike(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.manifest.producer["isthmus"] == "0.1.0"
    assert bundle.verify_files() == ()
    assert dumps(bundle.manifest) == (folder / "manifest.json").read_text("utf-8")


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_every_row_passes(folder: Path, tmp_path: Path) -> None:
    report = isthmus.verify(shutil.copytree(folder, tmp_path / "bundle"), devices=["cpu"])
    assert report, str(report)
    assert all(row.status == "passed" for row in report.rows)


@pytest.mark.parametrize(
    ("folder", "artifact", "engine"),
    list(artifacts_and_engines()),
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_every_engine_gives_the_same_bits(
    folder: Path, artifact: str, engine: str, tmp_path: Path
) -> None:
    bundle: Bundle = open_bundle(shutil.copytree(folder, tmp_path / "bundle"))
    model = isthmus.load(bundle.path, artifact=artifact, engine=engine)
    # isthmus 0.1.0 wrote no verdicts: the first load proves the engine, and remembers it.
    assert " now, on " in model.load_report.proof
    again = isthmus.load(bundle.path, artifact=artifact, engine=engine, warmup=False)
    assert "on this machine" in again.load_report.proof
    for golden in bundle.goldens():
        session = model.session()
        for step in golden.steps:
            result = session.call(step.method, **step.inputs)
            outputs = flatten(model.signature(step.method).returns, result)
            for name, expected in step.outputs.items():
                assert torch.equal(torch.as_tensor(outputs[name]), expected), (golden.name, name)
