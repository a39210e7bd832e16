"""Models like torchvision's detectors: lists of images, and another answer when scripted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.errors import ExecutionError, ExportError
from isthmus.proof.explain import explain
from isthmus.runtime import install_paths

Detections = list[dict[str, Tensor]]
SIZES: dict[str, Any] = {
    "dynamic": {"images.0": {1: "h0", 2: "w0"}, "images.1": {1: "h1", 2: "w1"}},
    "dims": dict.fromkeys(("h0", "w0", "h1", "w1"), (4, 20)),
}


class Detector(nn.Module):
    """Gives (losses, detections) when it is scripted, and the detections alone in eager mode."""

    def __init__(self, most: float = 1e3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 1, 3, padding=1)
        self.most = most

    def forward(  # type: ignore[no-untyped-def]
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ):
        losses: dict[str, Tensor] = {}
        detections: list[dict[str, Tensor]] = []
        for image in images:
            if float(image.max()) > self.most:
                losses["bright"] = image.max()
            # A size that one call decides, so that a trace cannot serve others.
            scale = 8.0 / float(min(image.shape[-2:]))
            resized = nn.functional.interpolate(
                image[None], scale_factor=scale, recompute_scale_factor=True
            )
            scores = self.convolution(resized).flatten()
            keep = torch.where(scores > scores.mean())[0]
            detections.append({"places": keep, "scores": scores[keep]})
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return losses, detections
        return detections


def images(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, height, width, generator=generator) for height, width in sizes]


def same(answer: Detections, expected: Detections) -> bool:
    return [list(found) for found in answer] == [list(found) for found in expected] and all(
        torch.equal(found[name], reference[name])
        for found, reference in zip(answer, expected, strict=True)
        for name in reference
    )


def test_a_scripted_detector_answers_as_in_eager_mode(tmp_path: Path) -> None:
    module = Detector()
    bundle = isthmus.export(module, (images((9, 12), (10, 7)),), path=tmp_path / "b", **SIZES)
    (artifact,) = bundle.manifest.artifacts
    assert (artifact.strategy, artifact.convention) == ("script", "structured")
    names = [spec.name for spec in bundle.manifest.methods[0].outputs]
    assert names == ["output.0.places", "output.0.scores", "output.1.places", "output.1.scores"]
    (note,) = [hazard for hazard in artifact.hazards if hazard.kind == "last_member"]
    assert "Tuple[Dict[str, Tensor], List[Dict[str, Tensor]]]" in note.message
    assert "last member" in artifact.decisions[-1].reason
    model = isthmus.load(bundle.path)
    for seed, sizes in enumerate([((9, 12), (10, 7)), ((20, 4), (5, 16)), ((11, 11), (11, 11))]):
        given = images(*sizes, seed=seed)
        expected = module(given)
        assert any(len(found["scores"]) for found in expected)
        assert same(model(given), expected)
    proof = subprocess.run(
        [install_paths.binary(), "verify", bundle.path], capture_output=True, text=True, check=False
    )
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert isthmus.verify(bundle.path)
    explanation = explain(bundle.path, module, engine="torchscript")
    assert [layer.path for layer in explanation.layers if layer.seen] == ["convolution"]


def test_what_is_beside_the_answer_fails_the_call(tmp_path: Path) -> None:
    bundle = isthmus.export(Detector(), (images((9, 12)),), path=tmp_path / "b", strategy="script")
    model = isthmus.load(bundle.path, specials="allow")
    bright = [image * 1e4 for image in images((9, 12))]
    with pytest.raises(ExecutionError, match="something beside the answer"):
        model(bright)
    assert same(model(images((9, 12))), Detector()(images((9, 12))))


def test_a_detector_that_always_gives_losses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="something beside the answer"):
        isthmus.export(Detector(0.0), (images((9, 12)),), path=tmp_path / "b", strategy="script")
    assert not (tmp_path / "b").exists()


class Pair(nn.Module):
    """Gives the same tuple in both modes."""

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        return {"double": x * 2}, [x]


def test_a_tuple_that_eager_gives_too_is_kept_whole(tmp_path: Path) -> None:
    bundle = isthmus.export(Pair(), (torch.ones(3),), path=tmp_path / "b", strategy="script")
    (artifact,) = bundle.manifest.artifacts
    assert not [hazard for hazard in artifact.hazards if hazard.kind == "last_member"]
    first, (second,) = isthmus.load(bundle.path)(torch.ones(3))
    assert torch.equal(first["double"], 2 * second)


class Options(nn.Module):
    """Takes what a scripted method declares in every way, and gives its answer last."""

    def forward(  # type: ignore[no-untyped-def]
        self,
        features: dict[str, list[Tensor]],
        factor: float = 2.0,
        label: str = "a",
        shift: Tensor | None = None,
    ):
        result = features["low"][0] * factor + features["low"][1].sum()
        if shift is not None:
            result = result + shift
        extra: list[Tensor] = []
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return extra, {"result": result}
        return {"result": result}

    @torch.jit.export
    def other(self, x: Tensor, *, by: Tensor) -> Tensor:
        return x * by


def test_arguments_defaults_and_other_methods_stay(tmp_path: Path) -> None:
    features = {"low": [torch.randn(4), torch.randn(2)]}
    shift = torch.randn(4)
    bundle = isthmus.export(
        Options(), (features, 3.0), {"shift": shift}, path=tmp_path / "b", strategy="script",
        methods={"other": ((shift,), {"by": shift})},
    )  # fmt: skip
    model = isthmus.load(bundle.path)
    expected = Options()(features, 5.0, shift=shift)["result"]
    assert torch.equal(model(features, 5.0, shift=shift)["result"], expected)
    assert torch.equal(model.call("other", shift, by=shift), shift * shift)


class Stops(nn.Module):
    """Branches on a size that comes from data, at which torch.export stops."""

    def forward(self, x: Tensor) -> Tensor:
        found = x[x > 0]
        if found.numel() > 3:
            return found.sum() + len({"a": 1})
        return found.sum()


def test_a_program_that_torch_gives_up_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError):
        isthmus.export(Stops(), (torch.ones(4),), path=tmp_path / "b", strategy="trace")
    out, err = capfd.readouterr()
    assert "def forward" not in out + err
