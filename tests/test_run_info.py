"""Tests of isthmus-run info."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.scripted_bundles import (
    Runner,
    assert_lines,
    tamper,
)

from isthmus.runtime import install_paths


def test_info(isthmus_run: Runner, affine_bundle: Path) -> None:
    assert_lines(
        isthmus_run("info", affine_bundle).stdout,
        "isthmus-run info",
        r"  bundle +affine",
        r"  producer +isthmus=0\.1\.0",
        r"  stateful +no",
        r"  size +\d+ B|  size +\d+\.\d kB",
        r"  method forward +forward\(x: float32\[batch, 3\]\) -> \(y: float32\[batch, 3\]\)",
        r"  dim batch +1 to 8",
        r"  noise floor y +1e-06 \(float64\)",
        r"  golden batch1 +1 call, batch=1, .*",
        r"  golden batch3 +1 call, batch=3, .*",
        r"  artifact +format +made on +runs on +precision +strategy +trust +size +requires.*",
        r"  scripted-cpu-fp32  scripted  cpu +cpu +fp32 +trace +graph +7 B +script=1\.0  -",
        r"  artifact +output +atol +rtol",
        r"  scripted-cpu-fp32  y +1e-05 +0",
        r"files not checked; --check .*",
    )


def test_info_json(isthmus_run: Runner, affine_bundle: Path) -> None:
    document = isthmus_run.json("info", affine_bundle)
    assert document["schema"] == "isthmus-run.info"
    assert document["schema_version"] == 1
    assert document["context"]["bundle"] == "affine"
    assert document["passed"] is True
    (row,) = document["rows"]
    assert row["artifact"] == "scripted-cpu-fp32"
    assert row["size"] == 7
    assert row["requires"] == {"script": "1.0"}
    assert row["operators"] == {"aten::mul": 1}
    assert row["tolerances"] == {"y": {"atol": 1e-5, "rtol": 0.0}}


def test_info_checks_files_only_when_asked(
    isthmus_run: Runner, affine_bundle: Path, tmp_path: Path
) -> None:
    assert (
        "all files are as the manifest says" in isthmus_run("info", affine_bundle, "--check").stdout
    )
    bad = tamper(affine_bundle, tmp_path / "bad")
    isthmus_run("info", bad)
    assert "artifacts/scripted.txt" in isthmus_run("info", bad, "--check", code=3).stdout
    document = isthmus_run.json("info", bad, "--check", code=3)
    assert document["passed"] is False
    assert "artifacts/scripted.txt" in document["verdict"]


def test_info_opens_no_engine(isthmus_run: Runner, affine_bundle: Path) -> None:
    mapped = subprocess.run(
        ["ldd", install_paths.binary()], text=True, capture_output=True, check=True
    ).stdout
    assert "libtorch" not in mapped
    # A command that opens engines would fail on one that cannot be opened.
    isthmus_run("info", affine_bundle, SCRIPTED_ENGINE_UNAVAILABLE="1")
