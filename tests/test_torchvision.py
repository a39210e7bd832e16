"""Models of torchvision in C++, with random weights; skipped where it does not import."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import isthmus
from isthmus.errors import ExportError
from isthmus.runtime import install_paths
from isthmus.runtime.op_libraries import installed_libraries

pytestmark = pytest.mark.slow

try:
    import torchvision
except Exception as error:  # without the torch that it was built for it fails in many ways
    pytest.skip(
        f"torchvision does not import beside torch {torch.__version__} ({error}); "
        "`scripts/compat 2.14.1` makes an environment to which its version 0.29.1 can be added",
        allow_module_level=True,
    )

MODELS: Any = torchvision.models
DETECTION: Any = MODELS.detection


def detector(make: Any, factor: float, **options: Any) -> nn.Module:
    """Returns a detector whose scores are far enough apart that rounding keeps their order.

    It resizes images to one size: scripted code computes another size than eager mode from some.

    Args:
        make: The function of torchvision.
        factor: Multiplies the weights that scores are computed from.
        options: Its options beside weights.
    """
    torch.manual_seed(0)
    fixed = {"weights": None, "weights_backbone": None, "num_classes": 5, "fixed_size": (128, 96)}
    module: Any = make(**fixed, **options)
    module.backbone.train()
    for layer in module.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        module.backbone(torch.rand(2, 3, 96, 128) * 4 - 2)
        for name, parameter in module.named_parameters():
            if name.endswith(("cls_logits.weight", "cls_score.weight")):
                parameter.mul_(factor)
    result: nn.Module = module.eval()
    return result


DETECTORS = {
    "fasterrcnn": lambda: detector(
        DETECTION.fasterrcnn_mobilenet_v3_large_320_fpn, 1.0,
        box_score_thresh=0.0, box_detections_per_img=20,
    ),
    "retinanet": lambda: detector(
        DETECTION.retinanet_resnet50_fpn, 3.0,
        score_thresh=0.0, detections_per_img=20,
    ),
    "maskrcnn": lambda: detector(
        DETECTION.maskrcnn_resnet50_fpn, 0.3,
        box_score_thresh=0.0, box_detections_per_img=6,
    ),
}  # fmt: skip


def verified(bundle: isthmus.Bundle) -> None:
    """Requires that the artifact is right in a process without Python."""
    libraries = installed_libraries(bundle.manifest.artifacts[0].op_libraries).values()
    named = [part for library in libraries for part in ("--op-library", str(library))]
    proof = subprocess.run(
        [install_paths.binary(), "verify", bundle.path, *named],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert proof.returncode == 0, proof.stdout + proof.stderr


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_takes_images_of_different_sizes(name: str, tmp_path: Path) -> None:
    module = DETECTORS[name]()
    torch.manual_seed(3)
    bundle = isthmus.export(
        module, ([torch.rand(3, 64, 80), torch.rand(3, 56, 96)],), path=tmp_path / "b",
        dynamic={"images.0": {1: "height", 2: "width"}},
        dims={"height": [50, 64], "width": [61, 80]},
    )  # fmt: skip
    assert bundle.manifest.artifacts[0].strategy == "script"
    verified(bundle)
    model = isthmus.load(bundle.path)
    for height, width in ((50, 61), (64, 80)):
        images = [torch.rand(3, height, width), torch.rand(3, 56, 96)]
        with torch.no_grad():
            expected = module(images)
        assert all(len(found["scores"]) for found in expected)
        for found, reference in zip(model(images), expected, strict=True):
            assert all(torch.equal(found[key], value) for key, value in reference.items())


def test_a_size_that_scripted_code_computes_otherwise_is_refused(tmp_path: Path) -> None:
    """torchvision computes the scale of 50 x 64 in float32 when it is scripted."""
    torch.manual_seed(0)
    module = DETECTION.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=5,
        box_score_thresh=0.0, box_detections_per_img=5, min_size=96, max_size=160,
    ).eval()  # fmt: skip
    with pytest.raises(ExportError, match="goldens fail"):
        isthmus.export(module, ([torch.rand(3, 50, 64)],), path=tmp_path / "b", strategy="script")
    assert not (tmp_path / "b").exists()


def packed_for_any_process(module: nn.Module) -> nn.Module:
    """Returns a copy with its weights packed as a process without torchvision packs them."""
    torch.backends.quantized.engine = "x86"
    return copy.deepcopy(module)


OTHERS: dict[str, tuple[Any, Sequence[int], dict[str, Any]]] = {
    "deeplab": (
        lambda: MODELS.segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=5
        ),
        (1, 3, 64, 96),
        {
            "dynamic": {"x": {0: "batch", 2: "height", 3: "width"}},
            "dims": {"batch": (1, 2), "height": [48, 64], "width": [96, 100]},
        },
    ),
    "quantised": (
        lambda: packed_for_any_process(MODELS.quantization.resnet18(weights=None, quantize=True)),
        (2, 3, 64, 64),
        {"dynamic": {"x": {0: "batch"}}, "dims": {"batch": (1, 4)}},
    ),
    "vit": (
        lambda: MODELS.VisionTransformer(
            image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
        ),
        (2, 3, 32, 32),
        {"dynamic": {"x": {0: "batch"}}, "dims": {"batch": (1, 4)}},
    ),
}


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("deeplab", ["torchscript", "onnx"]),
        ("quantised", ["torchscript"]),
        ("vit", ["torchscript", "onnx"]),
    ],
)
def test_other_models_run_without_python(name: str, formats: list[str], tmp_path: Path) -> None:
    make, shape, options = OTHERS[name]
    torch.manual_seed(0)
    bundle = isthmus.export(
        make().eval(), (torch.rand(*shape),), path=tmp_path / "b", formats=formats, **options
    )
    assert [result.ok for result in bundle.results] == [True] * len(formats)
    verified(bundle)
