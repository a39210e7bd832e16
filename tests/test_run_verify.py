"""Tests of isthmus-run verify."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.scripted_bundles import (
    STREAM,
    Runner,
    affine,
    assert_lines,
    entry,
    make_bundle,
)


def test_verify_passes(isthmus_run: Runner, affine_bundle: Path) -> None:
    assert_lines(
        isthmus_run("verify", affine_bundle).stdout,
        "isthmus-run verify",
        r"  bundle +affine \(.*\)",
        r"  runtime +Script 1\.0",
        r"  output  verdict  max abs  max rel  x eager's own  of allowed  nearest +cosine +"
        r"top 1/5  NaN/Inf  worst golden",
        r"  y       passed +0 +0 +- +0 %  atol +1  100/100 % +0/0  batch1",
        r"PASSED: 2 goldens on cpu with Script 1\.0",
    )


NO_STATISTICS = dict.fromkeys(("max", "rms", "p99", "median", "bias", "cosine"), 0.0)


def judged_to_truth(bundle: Path, off: float) -> None:
    """Adds the error of the eager module, `off`, to a bundle's goldens, with limits from it."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for golden in manifest["goldens"]:
        file = bundle / golden["file"]["path"]
        tensors = load_file(file)
        tensors["0/error/y"] = np.full_like(tensors["0/out/y"], off)
        save_file(tensors, file)
        golden["file"] = entry(bundle, file)
    limits = {"multiples": {"max": 6.0, "rms": 3.0}, "own": {"max": abs(off), "rms": abs(off)}}
    manifest["artifacts"][0]["tolerances"]["y"] |= limits | {"allowance": {}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_verify_judges_by_the_distance_to_the_truth(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    judged_to_truth(bundle, 0.25)
    row = isthmus_run.json("verify", bundle)["rows"][0]
    assert row["to_truth"]
    assert row["errors"]["rms"] == pytest.approx(0.25), "as far off as eager"
    assert row["allowed"]["max"] == pytest.approx(1.5)
    assert row["allowed"]["rms"] is None, "not judged on three elements"
    assert row["allowed"]["median"] is None, "not judged"
    assert row["noise_units"] == pytest.approx(1.0)


def test_verify_fails_beyond_the_multiple_and_names_it(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nbias 1.75")
    judged_to_truth(bundle, 0.25)
    row = isthmus_run.json("verify", bundle, code=1)["rows"][0]
    assert row["statistic"] == "max"
    assert row["multiple"] == pytest.approx(8.0)
    assert "slightly above the limit: max error 2 to float64 is 8 x eager's own" in row["reason"]
    assert "a multiple of 8 would pass" in row["reason"]


def test_an_error_of_another_shape_is_a_damaged_golden(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    judged_to_truth(bundle, 0.25)
    manifest = json.loads((bundle / "manifest.json").read_text())
    file = bundle / manifest["goldens"][0]["file"]["path"]
    save_file(load_file(file) | {"0/error/y": np.zeros(2, np.float32)}, file)
    manifest["goldens"][0]["file"] = entry(bundle, file)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "error/y" in isthmus_run("verify", bundle, code=3).stderr


def test_verify_json(isthmus_run: Runner, affine_bundle: Path) -> None:
    document = isthmus_run.json("verify", affine_bundle)
    assert document["schema"] == "isthmus-run.verify"
    assert document["schema_version"] == 1
    assert document["passed"] is True
    assert document["context"].keys() >= {
        *("bundle", "artifact", "engine", "runtime", "device", "threads", "isthmus", "machine")
    }
    assert [row["golden"] for row in document["rows"]] == ["batch1", "batch3"]
    assert document["rows"][1] == {
        "golden": "batch3",
        "output": "y",
        "max_abs": 0.0,
        "max_rel": 0.0,
        "noise_units": 0.0,
        "cosine": 1.0,
        "nan_mismatches": 0,
        "inf_mismatches": 0,
        "nans": 0,
        "infs": 0,
        "argmax_agreement": 1.0,
        "atol": 1e-5,
        "rtol": 0.0,
        "passing_atol": 0.0,
        "elements": 9,
        "topk_agreement": 1.0,
        "to_truth": False,
        "errors": NO_STATISTICS,
        "own": NO_STATISTICS,
        "allowed": NO_STATISTICS,
        "statistic": "",
        "multiple": 0.0,
        "strain": 0.0,
        "passed": True,
        "reason": "",
    }


def test_verify_fails(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nbias 0.25")
    assert_lines(
        isthmus_run("verify", bundle, code=1).stdout,
        r"  y +FAILED +0\.25 +.* %  atol +0\.\d+ +100/100 % +0/0  batch[13]",
        r"    largest difference 0\.25 is beyond atol 1e-05 .* atol 0\.25 would pass",
        r"FAILED: 2 of 2 goldens on cpu with Script 1\.0",
    )
    document = isthmus_run.json("verify", bundle, code=1)
    assert document["passed"] is False
    assert [row["passed"] for row in document["rows"]] == [False, False]
    assert document["rows"][0]["max_abs"] == 0.25
    assert document["rows"][0]["noise_units"] == pytest.approx(0.25e6)


def test_verify_sees_a_nan(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nnan 1")
    row = isthmus_run.json("verify", bundle, code=1)["rows"][0]
    assert row["nan_mismatches"] == 1
    assert row["passing_atol"] is None
    assert "NaN" in row["reason"]


def test_verify_makes_a_second_call(isthmus_run: Runner, tmp_path: Path) -> None:
    """A profiling runtime runs different code in the first and second call of a shape."""
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 3")
    rows = isthmus_run.json("verify", bundle, code=1)["rows"]
    failed = [row for row in rows if not row["passed"]]
    assert [(row["golden"], row["output"]) for row in failed] == [("batch1", None)]
    assert "the script says so" in failed[0]["error"]
    assert "run 2" in failed[0]["error"]
    assert_lines(
        isthmus_run("verify", bundle, code=1).stdout,
        r"  y +passed .*",
        r"  \(all\) +FAILED .* batch1",
        r"    .*the script says so.*",
        r"FAILED: 1 of 2 goldens .*",
    )


def test_verify_makes_four_calls_with_a_single_golden(isthmus_run: Runner, tmp_path: Path) -> None:
    goldens = {"batch1": affine(1)}
    isthmus_run(
        "verify", make_bundle(tmp_path / "4", "gain 2\nfail_on_call 4", goldens=goldens), code=1
    )
    isthmus_run("verify", make_bundle(tmp_path / "5", "gain 2\nfail_on_call 5", goldens=goldens))


def test_verify_restarts_sequences(
    isthmus_run: Runner, stream_bundle: Path, tmp_path: Path
) -> None:
    assert isthmus_run.json("verify", stream_bundle)["passed"] is True
    wrong = {"stream": [*STREAM["stream"][:3], STREAM["stream"][1]]}
    bundle = make_bundle(tmp_path / "bundle", goldens=wrong, stateful=True)
    (row,) = isthmus_run.json("verify", bundle, code=1)["rows"]
    assert row["max_abs"] == pytest.approx(1)
    assert "in call 4 of 4" in row["reason"]


def test_verify_without_goldens_proves_nothing(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", goldens={})
    assert "no goldens" in isthmus_run.json("verify", bundle, code=1)["verdict"]


def test_verify_with_a_damaged_golden(
    isthmus_run: Runner, affine_bundle: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(affine_bundle, bad)
    file = bad / "goldens" / "batch3.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "batch3" in isthmus_run.json("verify", bad, code=3)["error"]["message"]


def test_verify_takes_repeatable_options_before_the_bundle(
    isthmus_run: Runner, scripted_engines: Path, affine_bundle: Path
) -> None:
    isthmus_run("verify", "--engine-path", scripted_engines, affine_bundle)
