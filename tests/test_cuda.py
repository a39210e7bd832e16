"""The same bundle runs on CUDA. Skips without a device."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import isthmus
from isthmus.runtime import install_paths

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("needs_cuda")]


class MakesTensors(nn.Module):
    """Creates tensors on its input's device, which tracing writes into the graph as a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        return self.linear(x + positions)


def export(path: Path, **options: object) -> Path:
    torch.manual_seed(0)
    isthmus.export(
        MakesTensors(),
        (torch.randn(3, 8),),
        path=path,
        dynamic={"x": {0: "batch"}},
        dims={"batch": (1, 64)},
        **options,
    )
    return path


@pytest.fixture(scope="module")
def traced_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("cuda") / "cpu")


def test_traced_on_cpu_verifies_on_cuda(traced_on_cpu: Path) -> None:
    """The load replaces the device literals of the trace."""
    report = isthmus.verify(traced_on_cpu, devices=["cuda:0"])
    assert report.ok, report
    binary = subprocess.run(
        [install_paths.binary(), "verify", traced_on_cpu, "--device", "cuda:0"], check=False
    )
    assert binary.returncode == 0


def test_made_on_cuda_in_half_precision(tmp_path: Path) -> None:
    for precision in ("fp16", "bf16"):
        path = export(tmp_path / precision, device="cuda", precision=precision)
        assert isthmus.verify(path, devices=["cuda:0"]).ok


def test_tensors_stay_on_the_device(traced_on_cpu: Path) -> None:
    model = isthmus.load(traced_on_cpu, device="cuda:0")
    x = torch.randn(5, 8, device="cuda")
    y = model(x)
    assert y.device == x.device
    assert not y.requires_grad
    reference = isthmus.load(traced_on_cpu)(x.cpu())
    torch.testing.assert_close(y.cpu(), reference, atol=1e-4, rtol=1e-4)


def test_the_callers_stream_is_respected(traced_on_cpu: Path) -> None:
    """Work before and after the call in the same stream needs no synchronization."""
    model = isthmus.load(traced_on_cpu, device="cuda:0")
    side = torch.cuda.Stream()
    x = torch.zeros(64, 8, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # the input is written only after this
        x.fill_(1.0)
        y = model(x).clone()
    side.synchronize()
    expected = isthmus.load(traced_on_cpu)(torch.ones(64, 8))
    torch.testing.assert_close(y.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_a_cpu_tensor_is_refused_by_name(traced_on_cpu: Path) -> None:
    model = isthmus.load(traced_on_cpu, device="cuda:0")
    with pytest.raises(isthmus.InvalidInput, match=r"x.*cuda:0.*cpu"):
        model(torch.randn(2, 8))
    with pytest.raises(isthmus.InvalidInput, match="x"):
        model(np.zeros((2, 8), dtype=np.float32))
    model(torch.randn(2, 8, device="cuda"))


def test_an_absent_device_is_an_error(traced_on_cpu: Path) -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(isthmus.DeviceUnavailable, match=absent):
        isthmus.load(traced_on_cpu, device=absent)


def test_memory_does_not_grow(traced_on_cpu: Path) -> None:
    model = isthmus.load(traced_on_cpu, device="cuda:0")
    x = torch.randn(64, 8, device="cuda")
    for _ in range(10):
        model(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(1000):
        model(x)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
