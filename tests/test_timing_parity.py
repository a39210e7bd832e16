"""C++ is not slower than Python on the same artifact, and a slower C++ is caught.

The machine may be busy, so the lower end of the ratio's interval is judged, over rounds in which
both took a turn. One repetition is allowed for noise that lasts; a real slow-down repeats.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.native_engines import compile_engine
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.testing import assert_not_slower
from isthmus.timing.bench import bench
from isthmus.timing.bench_report import BenchReport

pytestmark = pytest.mark.alone

BOUND = 1.25
"""The largest allowed ratio of C++ to Python."""


class Layers(nn.Module):
    """A few milliseconds of matrix products, far above the cost of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(512, 512) for _ in range(12)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timing") / "layers"
    return isthmus.export(Layers().eval(), (torch.randn(128, 512),), path=path)


def measure(bundle: Bundle, *native_arguments: str) -> BenchReport:
    return bench(
        bundle,
        forms=["TorchScript"],
        devices=["cpu"],
        threads=1,
        rounds=20,
        turn_seconds=0.1,
        native_arguments=native_arguments,
    )


def assert_timing_parity(bundle: Bundle, *native_arguments: str) -> BenchReport:
    """Makes the same check on the good and on the slowed-down library."""
    report = measure(bundle, *native_arguments)
    try:
        assert_not_slower(report, BOUND)
    except AssertionError:
        report = measure(bundle, *native_arguments)
        assert_not_slower(report, BOUND)
    return report


def median_ms(report: BenchReport, language: str) -> float:
    summary = report.row("TorchScript", language).summary
    assert summary is not None, report
    return summary.median_ms


@pytest.mark.slow
def test_cpp_is_not_slower_than_python(layers: Bundle) -> None:
    assert_timing_parity(layers)


@pytest.mark.slow
def test_a_real_slow_down_fails_the_very_same_check(
    layers: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = install_paths.binary().resolve().parents[1] / "lib"
    wrapped = library / "libisthmus_engine_torchscript.so"
    compile_engine("slow_engine.cpp", tmp_path, "torchscript", WRAPPED_ENGINE=str(wrapped))
    microseconds = int(0.6e3 * median_ms(measure(layers), "Python"))
    monkeypatch.setenv("SLOW_ENGINE_US", str(microseconds))
    with pytest.raises(AssertionError, match=r"expected at most 1\.25 times"):
        assert_timing_parity(layers, "--engine-path", str(tmp_path))


@pytest.mark.slow
def test_the_same_program_against_itself_has_no_winner(
    layers: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both rows run Python (A/A), so a winner would be a false positive."""
    from isthmus.timing import turns

    def native_command(spec: EngineSpec, golden: str) -> list[str]:
        return turns._python_command(spec, golden, tmp_path)

    monkeypatch.setattr(turns, "_native_command", native_command)
    comparison = measure(layers).comparison("TorchScript")
    if comparison.verdict != "no significant difference":
        comparison = measure(layers).comparison("TorchScript")
    assert comparison.verdict == "no significant difference"
