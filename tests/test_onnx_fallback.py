"""Tests of ONNX files by the TorchScript exporter, which is tried where torch.export fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import isthmus

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore")  # engines that fail, exporters about themselves


class PackedGru(nn.Module):
    """A recurrent layer over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 16, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        out, state = self.gru(packed)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
        return out, state


class PackedLstm(nn.Module):
    """The same with a cell state, and as many steps as the longest sequence has."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return hidden[-1]


class SpatialTransformer(nn.Module):
    """`affine_grid` and `grid_sample` at a free height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta(x.mean((2, 3))).view(-1, 2, 3)
        grid = functional.affine_grid(theta, x.size(), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False, padding_mode="border")


def check(module: nn.Module, path: Path, calls: list[tuple[Tensor, ...]]) -> None:
    """Asserts that the bundle answers on ONNX Runtime as eager does."""
    model = isthmus.load(path, engine="onnxruntime")
    for call in calls:
        expected, actual = module(*call), model(*call)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [PackedGru, PackedLstm])
def test_packed_sequences(kind: type[nn.Module], tmp_path: Path) -> None:
    """The checks of sizes in torch's recurrent layers freeze nothing, so TorchScript is traced."""
    torch.manual_seed(0)
    module = kind().eval()
    bundle = isthmus.export(
        module,
        (torch.rand(3, 7, 8), torch.tensor([7, 3, 5])),
        path=tmp_path / "packed",
        formats=("torchscript", "onnx"),
        dynamic={"x": {0: "b", 1: "t"}, "lengths": {0: "b"}},
        dims={"b": (1, 8), "t": (1, 32)},
    )
    torchscript, onnx = bundle.manifest.artifacts
    assert torchscript.strategy == "trace"
    assert onnx.strategy == "torchscript"
    assert [decision.strategy for decision in onnx.decisions] == ["dynamo", "torchscript"]
    assert not onnx.decisions[0].accepted
    assert any(hazard.kind == "fallback" for hazard in onnx.hazards)
    calls = [
        (torch.rand(2, 9, 8), torch.tensor([4, 9])),
        (torch.rand(1, 1, 8), torch.tensor([1])),
        (torch.rand(5, 31, 8), torch.tensor([31, 1, 30, 2, 31])),
    ]
    with torch.no_grad():
        check(module, tmp_path / "packed", calls)


def test_affine_grid(tmp_path: Path) -> None:
    """The TorchScript exporter gets the operator set that the operator needs."""
    torch.manual_seed(0)
    module = SpatialTransformer().eval()
    bundle = isthmus.export(
        module,
        (torch.rand(2, 3, 16, 20),),
        path=tmp_path / "stn",
        formats=("onnx",),
        dynamic={"x": {0: "b", 2: "h", 3: "w"}},
        dims={"b": (1, 4), "h": (4, 32), "w": (4, 32)},
    )
    (artifact,) = bundle.manifest.artifacts
    assert artifact.strategy == "torchscript"
    assert artifact.requires["onnx_opset"] == "20"
    first = artifact.decisions[0]
    assert first.reason == 'torch.export fixes "h" at 16, and fixes "w" at 20'
    with torch.no_grad():
        check(module, tmp_path / "stn", [(torch.rand(1, 3, 9, 13),), (torch.rand(4, 3, 32, 4),)])


def test_an_operator_set_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    """The refusal names the operator set that would do."""
    with pytest.raises(isthmus.ExportError) as caught:
        isthmus.export(
            SpatialTransformer(),
            (torch.rand(2, 3, 16, 20),),
            path=tmp_path / "stn",
            formats=("onnx",),
            opset=18,
            dynamic={"x": {2: "h"}},
            dims={"h": (4, 32)},
        )
    reasons = {decision.strategy: decision.reason for decision in caught.value.decisions}
    assert "version 20" in reasons["torchscript"]
    text = str(caught.value)
    assert 'torch.export fixes "h" at 16' in text
    assert "dims=" in text
    assert "mark_dynamic" not in text
    assert not (tmp_path / "stn").exists()
