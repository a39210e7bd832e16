"""A format that serves a part of the sizes is kept for that part, and refuses the rest."""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import DimRange, Method
from isthmus.capture.capture import capture
from isthmus.exporters.attempts import ExportAttempt, Verified, first_that_verifies
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.options import ignore_progress
from isthmus.exporters.plan import export_artifact
from isthmus.exporters.size_guards import SizeGuards, SizesNotServed
from isthmus.goldens.make import make_goldens
from isthmus.goldens.tolerance import tolerances
from isthmus.runtime import install_paths
from isthmus.runtime.file_engines import OnnxRuntimeEngine

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


class Rounded(nn.Module):
    """Adds to each row the sum of as many steps as there are rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[0]).to(x.dtype).sum()


def wrong_beyond(limit: int) -> ExportAttempt:
    """Returns an attempt whose files answer wrongly above a size."""

    def write(request: ExportRequest, method: Method, path: Path) -> None:
        path.write_text(f"{limit}")

    return ExportAttempt("made up", write, "module", "a made-up exporter")


class MadeUpEngine:
    """Runs the files of `wrong_beyond`."""

    def __init__(self, files: Sequence[Path], methods: Sequence[Method]) -> None:
        self._limit = int(files[0].read_text())

    def call(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"]
        return {"output": Rounded()(x) + (x.shape[0] > self._limit)}


def request_of(folder: Path, limits: tuple[int, int], example: int) -> ExportRequest:
    """Returns a request to export the module `Rounded`."""
    captured = capture(
        Rounded(), (torch.rand(example, 3),), dynamic={"x": {0: "n"}}, dims={"n": limits}
    )
    goldens, noise, captured = make_goldens(captured, seed=0)
    return ExportRequest(
        methods=captured.methods,
        examples=captured.examples,
        axes=captured.dynamic,
        dims=captured.dims,
        goldens=goldens,
        sweep=captured.sweep,
        tolerances=tolerances(noise, goldens),
        folder=folder,
        module=captured.module,
    )


def try_all(
    attempts: Sequence[ExportAttempt], request: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> Verified:
    """Tries attempts on the made-up engine; no other engine is there."""
    monkeypatch.setattr("isthmus.exporters.attempts._passes_elsewhere", lambda *_: "")
    files = request.method_files("made-up", ".onnx")
    return first_that_verifies(attempts, request, files, request.check("cpu"), MadeUpEngine)


@pytest.mark.parametrize("limit", [25, 33])
def test_an_edge_at_which_goldens_fail_is_lost(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goldens fail at the largest size; the sweep finds those between it and the limit."""
    request = request_of(tmp_path, (2, 40), 8)
    verified = try_all([wrong_beyond(limit)], request, monkeypatch)
    assert verified.sizes == {"n": DimRange(2, limit)}
    assert [decision.accepted for decision in verified.decisions][-1]
    assert "goldens fail" in verified.decisions[0].reason


def test_only_what_was_tried_is_left_of_a_long_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest size is one of a call that was right, however near the edge may lie."""
    request = request_of(tmp_path, (2, 1000), 80)
    verified = try_all([wrong_beyond(900)], request, monkeypatch)
    tried = [golden.dims["n"] for golden in (*request.goldens, *request.sweep)]
    assert verified.sizes["n"].max == max(size for size in tried if size <= 900)
    assert verified.sizes["n"].min == 2


def test_another_way_that_serves_the_whole_range_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tmp_path, (2, 40), 8)
    verified = try_all([wrong_beyond(30), wrong_beyond(40)], request, monkeypatch)
    assert verified.sizes == {}


def test_a_refusal_has_the_first_and_the_last_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one is that of a part of the sizes."""
    request = request_of(tmp_path, (2, 40), 8)

    def write(request: ExportRequest, method: Method, path: Path) -> None:
        if request.dims["n"].max == 40:
            served = {"n": DimRange(2, 39)}
            raise SizesNotServed(SizeGuards(served=served), request.dims)
        raise RuntimeError("the compiler stumbled")

    attempt = ExportAttempt("made up", write, "module", "a made-up exporter")
    with pytest.raises(isthmus.ExportError) as caught:
        try_all([attempt], request, monkeypatch)
    assert re.sub(r" \(tests/\S+\)", "", str(caught.value)) == (
        'made up: torch.export serves 2 to 39 of "n", for which dims gives 2 to 40; '
        'made up: for 2 to 39 of "n" only: the compiler stumbled'
    )


def test_failures_inside_the_range_lose_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do values: a golden that fails at the size of the example is no edge."""
    request = request_of(tmp_path, (2, 40), 8)
    with pytest.raises(isthmus.ExportError) as caught:
        try_all([wrong_beyond(7)], request, monkeypatch)
    assert len(caught.value.decisions) == 1


def test_the_artifact_has_the_sizes_at_which_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers wrongly for less than ten rows."""

    class WrongForFew(OnnxRuntimeEngine):
        def call(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            answer = super().call(method, inputs)
            return {name: value + (value.shape[0] < 10) for name, value in answer.items()}

    monkeypatch.setattr("isthmus.exporters.onnx.export_onnx.OnnxRuntimeEngine", WrongForFew)
    monkeypatch.setattr("isthmus.exporters.attempts._passes_elsewhere", lambda *_: "")
    request = request_of(tmp_path, (4, 40), 20)
    exported = export_artifact("onnx", request, ignore_progress)
    assert exported.artifact.sizes == {"n": DimRange(10, 40)}
    assert exported.artifact.strategy == "dynamo"
    (hazard,) = [one for one in exported.artifact.hazards if one.kind == "fewer_sizes"]
    assert '10 to 40 of "n" only' in hazard.message
