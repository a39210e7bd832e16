"""Operators in exported ONNX compute exactly what eager computes, at every size and value."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
openvino = pytest.importorskip("openvino")

from isthmus.exporters.onnx.exact_operators import exact_translations, nearest_indices  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns about itself

Call = Callable[..., list[Tensor]]


class Together(nn.Module):
    """Applies several functions to the same inputs."""

    def __init__(self, *functions: Callable[..., Tensor]) -> None:
        super().__init__()
        self._functions = functions

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(*inputs) for function in self._functions)


def engines(
    folder: Path,
    module: nn.Module,
    inputs: Sequence[Tensor],
    dynamic: Any = None,
    may_be_empty: bool = False,
) -> dict[str, Call]:
    """Exports a module, and returns how ONNX Runtime and OpenVINO call the file."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), tuple(inputs), dynamic_shapes=dynamic)
        table = exact_translations(may_be_empty)
        exported = torch.onnx.export(
            program, (), dynamo=True, custom_translation_table=table, verbose=False
        )
    assert exported is not None
    file = folder / "exact.onnx"
    exported.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run_onnxruntime(*values: Tensor) -> list[Tensor]:
        names = [node.name for node in session.get_inputs()]
        feeds = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.as_tensor(value) for value in session.run(None, feeds)]

    def run_openvino(*values: Tensor) -> list[Tensor]:
        results = compiled({at: value.numpy() for at, value in enumerate(values)})
        return [torch.as_tensor(results[at].copy()) for at in range(len(compiled.outputs))]

    return {"onnxruntime": run_onnxruntime, "openvino": run_openvino}


SIZES = (*range(4, 130), 200, 224, 256, 400, 500)
"""Widths among which `Resize` is a pixel off at each of the cases, on either engine."""


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_interpolation_takes_the_pixel_of_eager_at_every_size(
    mode: str, tmp_path: Path
) -> None:
    module = Together(
        lambda x: functional.interpolate(x, size=24, mode=mode),
        lambda x: functional.interpolate(x, size=x.shape[-1] // 2 + 3, mode=mode),
        *(
            lambda x, scale=scale: functional.interpolate(x, scale_factor=scale, mode=mode)
            for scale in (0.6, 1.3, 2.0, 3.0)
        ),
    )
    width = torch.export.Dim("width", min=4, max=500)
    runs = engines(tmp_path, module, [torch.randn(1, 2, 50)], {"inputs": ({2: width},)})
    for size in SIZES:
        x = torch.randn(1, 2, size)
        for name, run in runs.items():
            for at, (expected, actual) in enumerate(zip(module(x), run(x), strict=True)):
                assert torch.equal(expected, actual), (name, size, at)


def test_nearest_indices_are_those_of_eager() -> None:
    for exact, mode in ((False, "nearest"), (True, "nearest-exact")):
        for size in (1, 7, 33, 200):
            x = torch.arange(size, dtype=torch.float32)[None, None]
            for output_size in range(1, 120):
                expected = functional.interpolate(x, size=output_size, mode=mode)[0, 0].long()
                indices = nearest_indices(size, output_size, None, exact)
                assert expected.tolist() == indices.tolist()


def test_the_mean_of_nothing_is_not_a_number(tmp_path: Path) -> None:
    module = Together(
        lambda x: x.mean(),
        lambda x: x.mean(0),
        lambda x: x.mean((0, 1), keepdim=True),
        lambda x: x.half().mean(0),
    )
    rows = torch.export.Dim("rows", min=0, max=100)
    runs = engines(tmp_path, module, [torch.randn(3, 4)], {"inputs": ({0: rows},)}, True)
    generator = torch.Generator().manual_seed(0)
    # An engine may leave out the rounding of x to halves, which is up to 1e-3 for these numbers.
    near = {torch.float16: {"atol": 1e-3, "rtol": 1e-3}}
    for rows_given in (0, 1, 70):
        x = torch.randn(rows_given, 4, generator=generator)
        for name, run in runs.items():
            for at, (expected, actual) in enumerate(zip(module(x), run(x), strict=True)):
                torch.testing.assert_close(
                    actual, expected, equal_nan=True, **near.get(expected.dtype, {}),
                    msg=lambda text, at=at, name=name: f"{name}, output {at}: {text}",
                )  # fmt: skip


def whole_numbers(dtype: torch.dtype, limit: int) -> tuple[Tensor, Tensor]:
    """Returns dividends up to a limit of either sign, and divisors of which none is zero."""
    info = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(0)
    low, high = max(info.min, -limit), min(info.max, limit)
    a = torch.randint(low, high, (4, 200), generator=generator).to(dtype)
    b = torch.randint(max(low, -99), 99, (4, 200), generator=generator).to(dtype)
    b[b == 0] = 7
    return a, b


WHOLE = (
    lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    lambda a, b: torch.div(a, 7, rounding_mode="trunc"),
    lambda a, b: torch.div(a, b, rounding_mode="floor"),
    lambda a, b: a // b,
    lambda a, b: a % b,
    lambda a, b: a % 7,
    lambda a, b: torch.fmod(a, b),
    lambda a, b: a >> (b % 9),
    lambda a, b: a >> 2,
    lambda a, b: a << (b % 9),
    lambda a, b: a**3,
    lambda a, b: a.cumsum(-1),
    lambda a, b: a.to(torch.uint8),
)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_whole_numbers_are_divided_shifted_and_cast_as_in_eager(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    module = Together(*WHOLE)
    runs = engines(tmp_path, module, whole_numbers(dtype, 100))
    # OpenVINO computes in int32, and the signature keeps larger numbers away from it.
    for name, limit in (("onnxruntime", 1 << 40), ("onnxruntime", 100), ("openvino", 100)):
        inputs = whole_numbers(dtype, limit)
        for at, (expected, actual) in enumerate(
            zip(module(*inputs), runs[name](*inputs), strict=True)
        ):
            assert torch.equal(expected, actual), (name, limit, at)
            assert expected.dtype == actual.dtype, (name, limit, at)


def test_floats_are_divided_rounded_and_cast_as_in_eager_on_onnxruntime(tmp_path: Path) -> None:
    """OpenVINO multiplies by inverses, which its own proof judges."""
    module = Together(
        lambda a, b: a % b,
        lambda a, b: a % 0.7,
        lambda a, b: a // b,
        lambda a, b: a // 0.1,
        lambda a, b: torch.div(a, b, rounding_mode="trunc"),
        lambda a, b: torch.fmod(a, b),
        lambda a, b: (a * 1000).round(decimals=-2),
        lambda a, b: a.round(decimals=2),
        lambda a, b: (a * 90).to(torch.uint8),
        lambda a, b: (a > b).cumsum(-1),
    )
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 2000, generator=generator) * scale for scale in (5, 2))
    a[0, :4], b[0, :4] = torch.tensor([1.0, 1.4, -2.1, 0.0]), torch.tensor([0.1, 0.7, 0.7, -1.0])
    run = engines(tmp_path, module, (a, b))["onnxruntime"]
    for at, (expected, actual) in enumerate(zip(module(a, b), run(a, b), strict=True)):
        assert torch.equal(expected, actual), at
