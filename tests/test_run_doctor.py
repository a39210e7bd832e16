"""Tests of isthmus-run doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.scripted_bundles import (
    Runner,
    assert_lines,
    make_bundle,
    tamper,
)

SCRIPTED = ("--engine", "scripted")


def test_doctor_describes_the_machine(isthmus_run: Runner) -> None:
    assert_lines(
        isthmus_run("doctor", *SCRIPTED).stdout,
        "isthmus-run doctor",
        r"  isthmus +\d+\.\d+\.\d+ \(.*C\+\+20.*\)",
        r"  system +Linux .*",
        r"  processor +.*, \d+ cores?",
        r"  instruction sets +.*",
        r"  memory +.* GB",
        r"  GPUs +.*",
        r"  NVIDIA driver +.*",
        r"  OpenMP runtimes +.*",
        r"  engine +state +formats +runtime +devices +found in",
        r"  scripted  ready  scripted  Script 1\.0  cpu +/nowhere/script",
        r"    one detail",
        r"1 engine ready",
    )


def test_doctor_without_a_runtime(isthmus_run: Runner) -> None:
    result = isthmus_run("doctor", *SCRIPTED, code=4, SCRIPTED_ENGINE_UNAVAILABLE="1")
    assert_lines(
        result.stdout,
        r"  scripted  not available .*",
        r"    the scripted runtime is not here; .*",
        r"no engine can run here: each says above .*",
    )


def test_doctor_reports_an_engine_that_cannot_be_opened(
    isthmus_run: Runner, tmp_path: Path
) -> None:
    (tmp_path / "libisthmus_engine_broken.so").write_bytes(b"not a library")
    document = isthmus_run.json("doctor", "--engine", "broken", "--engine-path", tmp_path, code=4)
    (row,) = document["rows"]
    assert row["kind"] == "engine"
    assert row["ready"] is False
    assert "broken" in row["reason"]


def test_doctor_says_that_a_bundle_fits(isthmus_run: Runner, affine_bundle: Path) -> None:
    assert_lines(
        isthmus_run("doctor", affine_bundle, *SCRIPTED).stdout,
        r"  bundle  files +size",
        r"  affine  as the manifest says +.*",
        r"  artifact +verdict +engine +format +devices +precision +trust +made with +operator.*",
        r"  scripted-cpu-fp32  fits +scripted  scripted  cpu +fp32 +graph  script=1\.0  -",
        r"the bundle fits here: scripted-cpu-fp32 on cpu with scripted",
    )
    document = isthmus_run.json("doctor", affine_bundle, *SCRIPTED)
    assert document["schema"] == "isthmus-run.doctor"
    assert [row["kind"] for row in document["rows"]] == ["engine", "bundle", "artifact"]
    assert document["rows"][1]["faults"] == []
    assert document["rows"][2]["fits"] is True
    assert document["rows"][2]["engine"] == "scripted"


@pytest.mark.parametrize(
    ("artifact", "options", "words"),
    [
        ({}, ["--device", "cuda:0"], "cuda"),
        ({}, ["--trust", "data"], "--trust graph"),
        ({"trust": "native"}, [], "--trust native"),
        ({"requires": {"script": "2.0"}}, [], "made for Script 2.0, found Script 1.0"),
        ({"format": "onnx"}, [], "onnx"),
        (
            {"op_libraries": [{"namespace": "my_ops", "library": "libmy_ops.so"}]},
            [],
            "my_ops (libmy_ops.so)",
        ),
    ],
    ids=["device", "data", "native", "version", "format", "operators"],
)
def test_doctor_says_why_a_bundle_does_not_fit(
    artifact: dict[str, Any], options: list[str], words: str, isthmus_run: Runner, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", **artifact)
    document = isthmus_run.json("doctor", bundle, *SCRIPTED, *options, code=4)
    assert document["passed"] is False
    assert "does not fit" in document["verdict"]
    row = document["rows"][-1]
    assert row["fits"] is False
    assert words in row["reason"]


def test_doctor_of_a_damaged_bundle_still_describes_the_machine(
    isthmus_run: Runner, affine_bundle: Path, tmp_path: Path
) -> None:
    bad = tamper(affine_bundle, tmp_path / "bad")
    document = isthmus_run.json("doctor", bad, *SCRIPTED, code=3)
    assert "artifacts/scripted.txt" in document["rows"][1]["reason"]
    assert "system" in document["context"]
    (bad / "manifest.json").write_text("{")
    assert isthmus_run.json("doctor", bad, *SCRIPTED, code=3)["rows"][1]["faults"]
