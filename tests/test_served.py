"""Tests of combinations of sizes and numbers that a model takes together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import DimRange
from isthmus.bundle.manifest_json import dumps, loads
from isthmus.capture.capture import capture
from isthmus.errors import BundleError, InvalidInput
from isthmus.runtime import install_paths


class TwoRates(nn.Module):
    """Takes 512 samples at 16 kHz and 256 at 8 kHz, and any batch."""

    def __init__(self, strict: bool = True) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(512, 4), nn.Linear(256, 4)
        self.strict = strict

    def forward(self, x: Tensor, rate: int) -> Tensor:
        if self.strict and x.shape[-1] != (512 if rate == 16000 else 256):
            raise ValueError("the number of samples does not fit the rate")
        if x.shape[-1] == 512:
            return self.wide(x)
        return self.narrow(x)


CALLS = [(torch.rand(2, 512), 16000), (torch.rand(3, 256), 8000)]
DYNAMIC: dict[str, Any] = {"dynamic": {"x": {0: "b", 1: "samples"}}}
DIMS: dict[str, Any] = {"dims": {"b": (1, 8), "samples": [256, 512]}}


def test_combinations_that_eager_refuses_are_not_served() -> None:
    captured = capture(TwoRates(), examples=CALLS, **DYNAMIC, **DIMS)
    cases = [(dict(case.sizes), dict(case.numbers)) for case in captured.methods[0].served]
    assert cases == [({"samples": 512}, {"rate": 16000}), ({"samples": 256}, {"rate": 8000})]
    assert captured.dims["b"] == DimRange(1, 8), "the batch is free"
    (note,) = (note for note in captured.notes if note.kind == "served_cases")
    assert "samples=512, rate=16000; or samples=256, rate=8000" in note.message
    assert all(
        (values["x"].shape[1], values["rate"]) in ((512, 16000), (256, 8000))
        for values in captured.examples.values()
    )


def test_sizes_that_go_with_a_number_become_the_only_ones() -> None:
    captured = capture(TwoRates(), examples=CALLS, **DYNAMIC)
    assert captured.dims["samples"] == DimRange(256, 512, (256, 512))


def test_numbers_are_free_where_eager_takes_every_combination() -> None:
    captured = capture(TwoRates(strict=False), examples=CALLS, **DYNAMIC, **DIMS)
    assert captured.methods[0].served == ()


def test_a_combination_that_eager_takes_too_is_served_and_proven() -> None:
    class Three(TwoRates):
        def forward(self, x: Tensor, rate: int) -> Tensor:
            if x.shape[-1] == 512 and rate == 8000:
                raise ValueError("too many samples")
            return self.wide(x) if x.shape[-1] == 512 else self.narrow(x)

    captured = capture(Three(), examples=CALLS, **DYNAMIC, **DIMS)
    assert len(captured.methods[0].served) == 3
    sizes = [(d.sizes["samples"], d.values["rate"]) for d in captured.further]
    assert (256, 16000) in sizes


@pytest.mark.parametrize(
    ("form", "engine"), [("torchscript", "torchscript"), ("onnx", "onnxruntime")]
)
def test_one_stream_at_two_rates(form: str, engine: str, tmp_path: Path) -> None:
    module = TwoRates().eval()
    bundle = isthmus.export(
        module, path=tmp_path / "b", examples=CALLS, formats=(form,), **DYNAMIC, **DIMS
    )
    model = isthmus.load(bundle.path, engine=engine)
    for samples, rate in ((512, 16000), (256, 8000)):
        x = torch.rand(5, samples)
        with torch.no_grad():
            torch.testing.assert_close(model(x, rate), module(x, rate), rtol=0, atol=1e-6)
    for samples, rate in ((512, 8000), (256, 16000), (512, 7)):
        words = f"samples={samples}, rate={rate}, which the model does not take together; expected"
        with pytest.raises(InvalidInput, match=words):
            model(torch.rand(1, samples), rate)
    info = subprocess.run(
        [install_paths.binary(), "info", bundle.path], capture_output=True, text=True, check=True
    )
    words = ", takes only samples=512, rate=16000; or samples=256, rate=8000"
    assert words in " ".join(info.stdout.split())
    read = loads(dumps(bundle.manifest))
    assert read.methods[0].served == bundle.manifest.methods[0].served
    with pytest.raises(BundleError, match="scalar inputs"):
        loads(dumps(bundle.manifest).replace('"rate": 16000', '"x": 16000'))
    assert isthmus.verify(bundle.path, module, ["eager", engine], ["cpu"])
