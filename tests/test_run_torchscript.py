"""Tests of isthmus-run on a TorchScript bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.scripted_bundles import (
    Runner,
)


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    import isthmus

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("torchscript") / "mlp"
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    isthmus.export(
        module,
        (torch.randn(2, 3),),
        path=path,
        dynamic={"input": {0: "batch"}},
        dims={"batch": (1, 16)},
    )
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "--check"],
        ["verify"],
        ["verify", "--warmup", "--threads", "1"],
        ["verify", "--optimize", "none"],
        ["bench", "--iterations", "3", "--min-seconds", "0"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_commands_on_torchscript(
    arguments: list[str], isthmus_run: Runner, torchscript: Path
) -> None:
    document = isthmus_run.json(arguments[0], torchscript, *arguments[1:])
    assert document["passed"] is True
    if arguments[0] == "verify":
        assert document["context"]["engine"] == "torchscript"
        assert document["context"]["runtime"].startswith("LibTorch 2.")


def test_predict_gives_the_eager_answer(
    isthmus_run: Runner, torchscript: Path, tmp_path: Path
) -> None:
    golden = load_file(next((torchscript / "goldens").iterdir()))
    output = tmp_path / "out.safetensors"
    save_file({"input": golden["0/in/input"]}, tmp_path / "inputs.safetensors")
    isthmus_run("predict", torchscript, "-i", tmp_path / "inputs.safetensors", "-o", output)
    (answer,) = load_file(output).values()
    (expected,) = (array for key, array in golden.items() if key.startswith("0/out/"))
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_no_python_in_the_process(isthmus_run: Runner, torchscript: Path) -> None:
    """No library of Python is mapped while the model runs."""
    with isthmus_run.start("bench", torchscript, "--worker") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["event"] == "ready"
        maps = Path(f"/proc/{worker.pid}/maps").read_text()
        worker.stdin.close()
        worker.stdout.read()
    assert "libtorch_cpu" in maps
    assert "libpython" not in maps
    assert "libtorch_python" not in maps
