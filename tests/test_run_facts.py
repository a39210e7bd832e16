"""Tests that isthmus-run leaves out none of the facts that explain a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from tests.scripted_bundles import Runner, make_bundle, ramp, value

from isthmus import _core


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_the_measured_number_of_threads_is_reported(isthmus_run: Runner, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (artifact,) = manifest["artifacts"]
    best = {
        "artifact": artifact["name"],
        "engine": "scripted",
        "threads": 1,
        "sha256": artifact["files"][0]["sha256"],
    }
    machine = {
        "machine": _core.machine_key(),
        "device": "cpu",
        "created": "2026-02-01T12:00:00Z",
        "ranking": [best],
    }
    tuning = {"format": "isthmus-tuning", "format_version": 1, "machines": [machine]}
    (bundle / "tuning.json").write_text(json.dumps(tuning))
    assert isthmus_run.json("verify", bundle)["context"]["threads"] == "1"
    worker = isthmus_run("bench", bundle, "--worker", stdin="quit\n").stdout
    assert json.loads(worker.splitlines()[0])["threads"] == 1


def test_bench_reports_why_requests_are_not_padded(isthmus_run: Runner, bundle: Path) -> None:
    options = ["--callers", "2", "--batch", "--iterations", "1", "--min-seconds", "0"]
    context = isthmus_run.json("bench", bundle, *options)["context"]
    assert "only requests of equal length run together" in context["batching"]


def test_predict_batch_refuses_calls_of_several_methods(
    isthmus_run: Runner, bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "two.safetensors"
    save_file({"0/in/x": ramp(1), "1/in/x": ramp(1)}, file)
    options = ["-i", file, "--batch", "--method", "forward", "--method", "other"]
    message = isthmus_run.json("predict", bundle, *options, code=2)["error"]["message"]
    assert "one method" in message and "other" in message


def test_info_lists_the_dimensions_of_all_methods(isthmus_run: Runner, bundle: Path) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["dims"]["time"] = {"min": 2, "max": 9}
    leaf = {"node": "leaf", "name": "x"}
    manifest["methods"].append(
        {
            "name": "decode",
            "inputs": [value("x") | {"shape": ["time"]}],
            "outputs": [],
            "args": [leaf],
            "kwargs": [],
            "returns": {"node": "none"},
        }
    )
    path.write_text(json.dumps(manifest))
    context = isthmus_run.json("info", bundle)["context"]
    assert context["dim time"] == "2 to 9"
    assert context["dim batch"] == "1 to 8"
