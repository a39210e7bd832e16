"""Types that ONNX does not have are refused in one sentence, and the other formats carry them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isthmus

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters warn about themselves


class Spectrum(nn.Module):
    """Gives complex numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


class FromSpectrum(nn.Module):
    """Takes complex numbers."""

    def forward(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum * (2 - 1j))


class Dense(nn.Module):
    """A matrix product and an operator that runtimes have in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.linear(x))


COMPLEX = {
    "output": (Spectrum(), torch.rand(2, 32), '"output" is complex64, and a complex output has no'),
    "input": (
        FromSpectrum(),
        torch.rand(2, 17, dtype=torch.complex64),
        '"spectrum" is complex64, and a complex input has no',
    ),
}


def export(module: nn.Module, example: Tensor, path: Path, form: str) -> None:
    """Exports a module of one input whose axis 0 is free."""
    name = "spectrum" if isinstance(module, FromSpectrum) else "x"
    isthmus.export(
        module, (example,), path=path, formats=(form,), dynamic={name: {0: "n"}}, dims={"n": (1, 8)}
    )


@pytest.mark.parametrize("side", COMPLEX)
def test_complex_numbers_have_no_form_in_onnx(side: str, tmp_path: Path) -> None:
    """The sentence names the value, and the formats that carry it."""
    module, example, sentence = COMPLEX[side]
    with pytest.raises(isthmus.ExportError) as caught:
        export(module, example, tmp_path / "net", "onnx")
    text = str(caught.value)
    assert sentence in text
    assert "torchscript or aoti" in text
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("form", ["torchscript", "aoti"])
@pytest.mark.parametrize("side", COMPLEX)
def test_complex_numbers_pass_through_cpp(side: str, form: str, tmp_path: Path) -> None:
    """The answers are eager's at a size that was no example."""
    module, example, _ = COMPLEX[side]
    export(module, example, tmp_path / "net", form)
    model = isthmus.load(tmp_path / "net", trust="native")
    x = torch.randn(5, *example.shape[1:], dtype=example.dtype)
    torch.testing.assert_close(model(x), module(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape", "dtype", "operator"),
    [
        (Dense(), (2, 8), "float64", "Erf"),
        (nn.Conv1d(4, 4, 1), (2, 4, 8), "float64", "Conv"),
        (nn.Conv1d(4, 4, 1), (2, 4, 8), "bfloat16", "Conv"),
    ],
)
def test_a_missing_operator_is_named_with_its_type(
    module: nn.Module, shape: tuple[int, ...], dtype: str, operator: str, tmp_path: Path
) -> None:
    """In place of what the runtime says of a node."""
    kind = getattr(torch, dtype)
    module = module.to(kind).eval()
    with pytest.raises(isthmus.ExportError) as caught:
        isthmus.export(module, (torch.rand(shape, dtype=kind),), path=tmp_path / "net",
                       formats=("onnx",))  # fmt: skip
    text = str(caught.value)
    assert f" no {operator} for {dtype}: use the formats torchscript or aoti" in text
    assert "node" not in text
    assert not (tmp_path / "net").exists()


def test_the_verdict_of_an_engine_names_the_type(tmp_path: Path) -> None:
    """OpenVINO computes in bfloat16 what ONNX Runtime does not."""
    module = Dense().to(torch.bfloat16).eval()
    bundle = isthmus.export(
        module, (torch.rand(2, 8, dtype=torch.bfloat16),), path=tmp_path / "net", formats=("onnx",)
    )
    proofs = {proof.engine: proof for proof in bundle.manifest.artifacts[0].proofs}
    assert proofs["openvino"].passed
    assert proofs["onnxruntime"].reason.startswith("ONNX Runtime has no Gemm for bfloat16: use")


@pytest.mark.parametrize("form", ["torchscript", "aoti"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_named_formats_compute_in_the_type(
    form: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """In C++, with the values of eager."""
    torch.manual_seed(0)
    module = Dense().to(dtype).eval()
    export(module, torch.rand(2, 8, dtype=dtype), tmp_path / "net", form)
    model = isthmus.load(tmp_path / "net", trust="native")
    x = torch.rand(5, 8, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(model(x), module(x))
