"""A format that serves a part of the sizes is kept for that part, and refuses the rest."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import DimRange
from isthmus.runtime import install_paths

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters warn about themselves


class Gap(nn.Module):
    """Answers otherwise at one size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] != self.size else x + 1


class Large(nn.Module):
    """Answers otherwise below a size."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] >= self.least else x + 1


def export(
    module: nn.Module, example: Tensor, path: Path, formats: Sequence[str], limits: tuple[int, int]
) -> Bundle:
    """Exports a module whose input has a free axis 0."""
    return isthmus.export(
        module, (example,), path=path, formats=formats, dynamic={"x": {0: "n"}}, dims={"n": limits}
    )


def test_compiled_code_for_a_part_of_the_range(tmp_path: Path) -> None:
    """The table, the manifest, `info` and the signature say which sizes it serves."""
    module, example = Large(9), torch.rand(32, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bundle = export(module, example, tmp_path / "b", ("aoti", "torchscript"), (4, 64))
    (aoti, torchscript) = bundle.manifest.artifacts
    assert aoti.sizes == {"n": DimRange(9, 64)}
    assert not torchscript.sizes
    assert bundle.results[0].sizes == '9 to 64 of "n"'
    assert any('serves 9 to 64 of "n" only' in str(warning.message) for warning in caught)
    assert [hazard.kind for hazard in aoti.hazards].count("fewer_sizes") == 1
    assert aoti.decisions[0].reason.startswith('torch.export serves 9 to 64 of "n", for which')

    model = isthmus.load(tmp_path / "b", engine="aoti", trust="native")
    for size in (9, 10, 40, 64):
        x = torch.rand(size, 3)
        torch.testing.assert_close(model(x), module(x))
    for size in (4, 8):
        with pytest.raises(isthmus.InvalidInput, match=r"9 to 64: the artifact .aoti-cpu-fp32"):
            model(torch.rand(size, 3))
    with pytest.raises(isthmus.InvalidInput, match="outside its range"):
        model(torch.rand(65, 3))

    automatic = isthmus.load(tmp_path / "b", trust="native")
    assert automatic.load_report.artifact == "torchscript-cpu-fp32"
    x = torch.rand(8, 3)
    torch.testing.assert_close(automatic(x), module(x))

    info = subprocess.run(
        [install_paths.binary(), "info", tmp_path / "b"], capture_output=True, text=True, check=True
    )
    assert '9 to 64 of "n" only' in info.stdout
    assert isthmus.inspect(tmp_path / "b", artifact="aoti-cpu-fp32").sizes == '9 to 64 of "n"'


def test_verify_runs_the_goldens_that_an_artifact_serves(tmp_path: Path) -> None:
    """In C++ and in Python; the others are not held against it."""
    bundle = export(Large(9), torch.rand(32, 3), tmp_path / "b", ("aoti",), (4, 64))
    served = [golden for golden in bundle.goldens() if golden.dims["n"] >= 9]
    assert 0 < len(served) < len(bundle.goldens())
    report = isthmus.verify(tmp_path / "b", trust="native")
    assert report, report
    rows = [row for row in report.rows if row.device == "cpu"]
    assert "C++" in {row.language for row in rows}
    for row in rows:
        assert {result.golden for result in row.results} == {golden.name for golden in served}


def test_a_gap_inside_the_range_is_lost_alone(tmp_path: Path) -> None:
    """AOTInductor serves every size but one."""
    module = Gap(7)
    bundle = export(module, torch.rand(6, 3), tmp_path / "b", ("aoti",), (2, 12))
    (artifact,) = bundle.manifest.artifacts
    assert str(artifact.sizes["n"]) == "2 to 6 or 8 to 12"
    model = isthmus.load(tmp_path / "b", trust="native")
    for size in (2, 6, 8, 12):
        x = torch.rand(size, 3)
        torch.testing.assert_close(model(x), module(x))
    with pytest.raises(isthmus.InvalidInput, match="2 to 6 or 8 to 12"):
        model(torch.rand(7, 3))


def test_a_format_without_the_core_of_the_range_is_lost(tmp_path: Path) -> None:
    """Less than half of the sizes are not worth an artifact; the refusal names them."""
    with pytest.raises(isthmus.ExportError) as caught:
        export(Large(30), torch.rand(31, 3), tmp_path / "b", ("aoti",), (2, 40))
    assert 'torch.export serves 30 to 40 of "n", for which dims gives 2 to 40' in str(caught.value)
    assert "dims=" in str(caught.value)
    assert not (tmp_path / "b").exists()
