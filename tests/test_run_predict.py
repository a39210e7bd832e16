"""Tests of isthmus-run predict."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.scripted_bundles import (
    NUMBER,
    STREAM,
    Runner,
    assert_lines,
    make_bundle,
    ramp,
)


def test_predict_prints_a_summary(
    isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path
) -> None:
    assert_lines(
        isthmus_run("predict", affine_bundle, "--inputs", affine_inputs).stdout,
        "isthmus-run predict",
        r"  bundle +affine \(.*\)",
        r"  artifact +scripted-cpu-fp32",
        r"  engine +scripted",
        r"  runtime +Script 1\.0",
        r"  device +cpu",
        r"  threads +the runtime's default",
        r"  isthmus +\d.*",
        r"  machine +.*",
        r"  note +it is only a script",
        r"  output  dtype    shape   first values +mean +std +min +max +NaN/Inf",
        rf"  y +float32  \[2, 3\]  -2 -1\.2 -0\.4 0\.4 \.\.\. +{NUMBER}  1\.3663 +-2 +2 +0/0",
    )


def test_predict_writes_the_answer(
    isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.safetensors"
    isthmus_run("predict", affine_bundle, "--inputs", affine_inputs, "-o", output)
    answer = load_file(output)
    assert list(answer) == ["y"]
    np.testing.assert_array_equal(answer["y"], 2 * ramp(2))


def test_predict_reads_npz(isthmus_run: Runner, affine_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=ramp(4))
    output = tmp_path / "out.safetensors"
    isthmus_run("predict", affine_bundle, "-i", tmp_path / "inputs.npz", "--output", output)
    np.testing.assert_array_equal(load_file(output)["y"], 2 * ramp(4))


def test_predict_json(isthmus_run: Runner, tmp_path: Path, affine_inputs: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nnan 1")
    document = isthmus_run.json("predict", bundle, "--inputs", affine_inputs, "--threads", "1")
    assert document["schema"] == "isthmus-run.predict"
    assert document["context"]["threads"] == "1"
    (row,) = document["rows"]
    assert row["output"] == "y"
    assert row["dtype"] == "float32"
    assert row["shape"] == [2, 3]
    assert row["first"][0] == "NaN"
    assert row["first"][1:] == pytest.approx((2 * ramp(2)).reshape(-1)[1:].tolist())
    assert row["nans"] == 1
    assert row["max"] == 2


def test_predict_batch_runs_requests_together(
    isthmus_run: Runner, affine_bundle: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "many.safetensors", tmp_path / "out.safetensors"
    save_file({f"{at}/in/x": ramp(1) + at for at in range(20)}, file)
    options = ["--batch", "--workers", "2", "--max-requests", "4"]
    context = isthmus_run.json("predict", affine_bundle, "-i", file, "-o", output, *options)[
        "context"
    ]
    assert context["requests"] == "20"
    assert 5 <= int(context["calls"]) <= 20
    answers = load_file(output)
    assert len(answers) == 20
    for at in range(20):
        np.testing.assert_array_equal(answers[f"{at}/out/y"], 2 * (ramp(1) + at))


def test_predict_batch_names_the_request_that_does_not_fit(
    isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "many.safetensors"
    save_file({"0/in/x": ramp(1), "1/in/x": ramp(1).astype(np.float64)}, file)
    message = isthmus_run.json("predict", affine_bundle, "-i", file, "--batch", code=2)["error"][
        "message"
    ]
    assert "request 1" in message and "float64" in message
    message = isthmus_run.json("predict", affine_bundle, "-i", affine_inputs, "--batch", code=2)[
        "error"
    ]["message"]
    assert "leave --batch out" in message


def test_predict_says_what_is_wrong_with_the_inputs(
    isthmus_run: Runner, affine_bundle: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "inputs.safetensors", tmp_path / "out.safetensors"
    save_file({"x": ramp(2).astype(np.float64)}, file)
    stderr = isthmus_run("predict", affine_bundle, "--inputs", file, "-o", output, code=2).stderr
    assert "float32" in stderr
    assert "float64" in stderr
    assert not output.exists()


def test_predict_cannot_write(
    isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "nowhere" / "out.safetensors"
    assert (
        "nowhere"
        in isthmus_run("predict", affine_bundle, "-i", affine_inputs, "-o", target, code=2).stderr
    )


def test_predict_runs_a_sequence_in_one_session(
    isthmus_run: Runner, stream_bundle: Path, tmp_path: Path
) -> None:
    golden = stream_bundle / "goldens" / "stream.safetensors"
    output = tmp_path / "out.safetensors"
    methods = [word for step in STREAM["stream"] for word in ("--method", step[0])]
    isthmus_run("predict", stream_bundle, "--inputs", golden, "-o", output, *methods)
    expected = {key: array for key, array in load_file(golden).items() if "/out/" in key}
    answer = load_file(output)
    assert answer.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(answer[key], array, atol=1e-6)

    # The default method takes x in every call, and "reset" has no inputs.
    isthmus_run("predict", stream_bundle, "--inputs", golden, "-o", output, code=2)
    two = ["--method", "forward", "--method", "reset"]
    refused = isthmus_run("predict", stream_bundle, "--inputs", golden, *two, code=2)
    assert "4 calls" in refused.stderr


def test_predict_refuses_a_mixture_of_names(
    isthmus_run: Runner, affine_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "inputs.safetensors"
    save_file({"x": ramp(1), "0/in/x": ramp(1)}, file)
    stderr = isthmus_run("predict", affine_bundle, "--inputs", file, code=2).stderr
    assert '"x"' in stderr
    assert '"0/in/x"' in stderr
    save_file({"99999999/in/x": ramp(1)}, file)
    assert "99999999" in isthmus_run("predict", affine_bundle, "--inputs", file, code=2).stderr


def test_predict_repeats_from_a_fresh_session(
    isthmus_run: Runner, stream_bundle: Path, affine_inputs: Path
) -> None:
    context = isthmus_run.json(
        "predict", stream_bundle, "--inputs", affine_inputs, "--repeat", "3", "--timing"
    )["context"]
    assert context["repeats"] == "3, the same bytes each time"


def test_predict_says_where_the_time_went(
    isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path
) -> None:
    context = isthmus_run.json("predict", affine_bundle, "--inputs", affine_inputs, "--timing")[
        "context"
    ]
    for name in ("read inputs", "read and hash files", "engine load", "first call", "in all"):
        assert re.fullmatch(r"\d+\.\d+ [mu]?s", context[name]), name
    assert "warm-up" not in context
    warm = isthmus_run.json(
        "predict", affine_bundle, "--inputs", affine_inputs, "--timing", "--warmup"
    )["context"]
    assert "warm-up" in warm
    assert (
        "in all"
        not in isthmus_run.json("predict", affine_bundle, "--inputs", affine_inputs)["context"]
    )
