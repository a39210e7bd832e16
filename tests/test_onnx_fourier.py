"""Fourier transforms in ONNX: right sizes, and as exact as eager's at lengths of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import DimRange
from isthmus.exporters.onnx.fourier import hide_sizes, make_transforms_accurate

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore")  # engines that fail, exporters about themselves

LENGTHS = (1, 2, 3, 17, 64, 66, 200, 201, 1000)


def transform(
    opset: int, parts: int, *, inverse: bool, onesided: bool, with_length: bool = True
) -> Any:
    """Returns a model of one DFT over axis 1 of three, whose length is an input."""
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", "c", parts])]
    inputs.append(helper.make_tensor_value_info("length", TensorProto.INT64, []))
    attributes = {"inverse": int(inverse), "onesided": int(onesided)}
    names = ["x", "length" if with_length else ""]
    constants = []
    if opset >= 20:
        names.append("axis")
        constants.append(helper.make_tensor("axis", TensorProto.INT64, [], [1]))
    else:
        attributes["axis"] = 1
    nodes = [helper.make_node("DFT", names, ["y"], **attributes)]
    nodes.append(helper.make_node("Identity", ["length"], ["same"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)]
    outputs.append(helper.make_tensor_value_info("same", TensorProto.INT64, []))
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(path: Path, x: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """Runs a model; complex numbers have their parts in a last axis."""
    values = x.astype(np.complex64) if np.iscomplexobj(x) else x.astype(np.float32)
    if np.iscomplexobj(values):
        flat = np.stack([values.real, values.imag], -1)
    else:
        flat = values[..., None]
    session = onnxruntime.InferenceSession(path)
    answer, _ = session.run(None, {"x": flat, "length": np.array(length)})
    return answer[..., 0] + 1j * answer[..., 1] if answer.shape[-1] == 2 else answer[..., 0]


def assert_exact(actual: Any, expected: Any) -> None:
    """Asserts that only the rounding of inputs and outputs to float32 is between two arrays."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 3e-7 * max(np.abs(expected).max(), 1.0)


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("kind", ["rfft", "irfft", "fft", "ifft", "fft of reals"])
def test_every_length_is_exact(kind: str, opset: int, tmp_path: Path) -> None:
    """A transform also pads an input that is shorter than its length, and cuts a longer one."""
    rng = np.random.default_rng(0)
    halved = kind in ("rfft", "irfft")
    real = kind in ("rfft", "fft of reals")
    path = tmp_path / "dft.onnx"
    onnx.save(
        transform(opset, 1 if real else 2, inverse=kind.startswith("i"), onesided=halved), path
    )
    assert make_transforms_accurate(path)
    for length in LENGTHS:
        usual = length // 2 + 1 if kind == "irfft" else length
        for size in {usual, usual + 3, max(usual - 2, 1)}:
            x = rng.random((2, size, 3)).astype(np.float32)
            if not real:
                x = (x + 1j * rng.random((2, size, 3))).astype(np.complex64)
            numpy = getattr(np.fft, kind.split()[0])
            expected = numpy(x.astype(np.complex128 if not real else np.float64), length, axis=1)
            assert_exact(run(path, x, length), expected)


def test_a_power_of_two_needs_no_other_algorithm(tmp_path: Path) -> None:
    """It is computed in float64, too."""
    path = tmp_path / "dft.onnx"
    model = transform(20, 1, inverse=False, onesided=True, with_length=False)
    size = model.graph.input[0].type.tensor_type.shape.dim[1]
    size.dim_value = 64
    onnx.save(model, path)
    assert make_transforms_accurate(path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes == ["Cast", "DFT", "CastLike", "Identity"]
    x = np.random.default_rng(0).random((2, 64, 3)).astype(np.float32)
    assert_exact(run(path, x, 64), np.fft.rfft(x.astype(np.float64), axis=1))
    size.dim_value = 60
    onnx.save(model, path)
    assert make_transforms_accurate(path)
    assert [node.op_type for node in onnx.load(path).graph.node].count("DFT") == 3
    x = x[:, :60]
    assert_exact(run(path, x, 60), np.fft.rfft(x.astype(np.float64), axis=1))


def test_a_graph_without_transforms_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "dft.onnx"
    model = transform(20, 1, inverse=False, onesided=True)
    model.graph.node[0].op_type = "Abs"
    onnx.save(model, path)
    before = path.read_bytes()
    assert not make_transforms_accurate(path)
    assert path.read_bytes() == before


def test_sizes_after_a_transform_are_removed() -> None:
    """Those before it stay."""
    model = transform(20, 2, inverse=True, onesided=True)
    sizes = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", "n", "c", 1])
    model.graph.value_info.append(sizes)
    hide_sizes(model)
    assert [node.op_type for node in model.graph.node] == ["Reshape", "DFT", "Identity"]
    inferred = onnx.shape_inference.infer_shapes(model)
    (known,) = [value for value in inferred.graph.output if value.name == "y"]
    names = [size.dim_param for size in known.type.tensor_type.shape.dim]
    assert names[1] != "n"


# --- through an export ----------------------------------------------------------------------------


class LongConvolution(nn.Module):
    """Convolves with a kernel of 48 places by transforms whose length follows from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.skip = nn.Parameter(torch.rand(4, 48)), nn.Parameter(torch.rand(4, 1))

    def forward(self, signal: Tensor) -> Tensor:
        size = signal.shape[-1]
        kernel = torch.fft.rfft(self.kernel, n=2 * size)
        product = torch.fft.rfft(signal, n=2 * size) * (kernel / size)
        return torch.fft.irfft(product, n=2 * size)[..., :size] * size + self.skip * signal


class Spectrum(nn.Module):
    """The magnitudes of a spectrum."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


def export(
    module: nn.Module, example: Tensor, path: Path, form: str, limits: tuple[int, int]
) -> isthmus.Bundle:
    """Exports a module of one input whose last axis is free."""
    (name,) = (parameter for parameter in module.forward.__annotations__ if parameter != "return")
    return isthmus.export(
        module, (example,), path=path, formats=(form,),
        dynamic={name: {example.dim() - 1: "t"}}, dims={"t": limits},
    )  # fmt: skip


ENGINES = {"torchscript": "torchscript", "onnx": "onnxruntime", "aoti": "aoti"}


@pytest.mark.parametrize("form", ENGINES)
def test_a_convolution_by_transforms(form: str, tmp_path: Path) -> None:
    """torch.export has one program for signals that are longer than half of the kernel."""
    torch.manual_seed(0)
    module = LongConvolution().eval()
    bundle = export(module, torch.rand(2, 4, 40), tmp_path / "b", form, (8, 96))
    (artifact,) = bundle.manifest.artifacts
    assert artifact.sizes == ({} if form == "torchscript" else {"t": DimRange(25, 96)})
    model = isthmus.load(bundle.path, engine=ENGINES[form], trust="native")
    for size in (25, 31, 64, 77, 96) if artifact.sizes else (8, 24, 25, 77, 96):
        x = torch.rand(2, 4, size)
        with torch.no_grad():
            torch.testing.assert_close(model(x), module(x), rtol=0, atol=2e-5)
    if form == "onnx":
        assert "with Fourier transforms in float64" in artifact.decisions[-1].reason
    if artifact.sizes:
        with pytest.raises(isthmus.InvalidInput, match=r"25 to 96: the artifact"):
            model(torch.rand(2, 4, 24))


def test_a_spectrum_of_any_length(tmp_path: Path) -> None:
    """Its size is not taken for that of the signal."""
    module = Spectrum()
    bundle = export(module, torch.rand(2, 40), tmp_path / "b", "onnx", (4, 128))
    assert not bundle.manifest.artifacts[0].sizes
    model = isthmus.load(bundle.path, engine="onnxruntime")
    for size in (4, 5, 64, 99, 128):
        x = torch.rand(2, size)
        torch.testing.assert_close(model(x), module(x), rtol=0, atol=2e-5)
