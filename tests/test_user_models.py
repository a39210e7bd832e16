"""Models as users bring them, in every format, at sizes that no golden has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import isthmus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # engines that fail, exporters about themselves
]

ENGINES = {"torchscript": "torchscript", "onnx": "onnxruntime", "aoti": "aoti"}


@dataclass(frozen=True)
class Case:
    """A model with an example call, and calls of other sizes."""

    module: nn.Module
    example: tuple[Any, ...]
    dynamic: dict[str, dict[int, str]]
    dims: dict[str, tuple[int, int]]
    unseen: list[tuple[Any, ...]]
    refused: dict[str, str] = field(default_factory=dict)
    """What the refusal of a format says."""


class Rescaled(nn.Module):
    """Writes to a view of a copy of its input, and gives both."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        table = x.clone()
        rest = table[1:]
        rest.mul_(3)
        table[:, -1] -= 1
        return table, rest


class Sequences(nn.Module):
    """A recurrent layer in both directions over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        out, _ = self.gru(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
        return padded


class Rotated(nn.Module):
    """Samples an image on a grid that follows from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(2, 6)

    def forward(self, image: Tensor) -> Tensor:
        matrix = self.matrix(image.mean((2, 3))).view(-1, 2, 3)
        grid = functional.affine_grid(matrix, image.size(), align_corners=False)
        return functional.grid_sample(image, grid, align_corners=False)


class Bags(nn.Module):
    """Means of embeddings; the first offset is 0, and offsets rise."""

    def __init__(self) -> None:
        super().__init__()
        self.bags, self.score = nn.EmbeddingBag(40, 6, mode="mean"), nn.Linear(6, 2)

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        return self.score(self.bags(words, offsets))


def words(count: int) -> Tensor:
    return torch.randint(5, 40, (count,))


CASES: dict[str, Callable[[], Case]] = {
    "writes to a view": lambda: Case(
        Rescaled(), (torch.rand(6, 3),), {"x": {0: "n"}}, {"n": (2, 24)},
        [(torch.rand(size, 3),) for size in (2, 3, 17, 24)],
    ),
    "packed sequences": lambda: Case(
        Sequences(), (torch.rand(3, 7, 4), torch.tensor([7, 3, 5])),
        {"x": {0: "b", 1: "t"}, "lengths": {0: "b"}}, {"b": (1, 8), "t": (1, 24)},
        [(torch.rand(2, 9, 4), torch.tensor([4, 9])), (torch.rand(1, 1, 4), torch.tensor([1]))],
        {"aoti": "a size is taken from the values of a tensor.*the formats torchscript or onnx"},
    ),
    "affine grid": lambda: Case(
        Rotated(), (torch.rand(2, 2, 12, 16),), {"image": {0: "b", 2: "h", 3: "w"}},
        {"b": (1, 4), "h": (4, 24), "w": (4, 24)},
        [(torch.rand(1, 2, 9, 13),), (torch.rand(4, 2, 24, 4),)],
        {"aoti": 'torch.export fixes "h" at 12, and fixes "w" at 16'},
    ),
    "embedding bags": lambda: Case(
        Bags(), (words(20), torch.tensor([0, 5, 11])), {"words": {0: "n"}, "offsets": {0: "b"}},
        {"n": (2, 60), "b": (2, 10)},
        [(words(33), torch.tensor([0, 2, 9, 30])), (words(2), torch.tensor([0, 1]))],
    ),
}  # fmt: skip


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for item in value for leaf in leaves(item)]


@pytest.mark.parametrize("form", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_every_format_is_right_or_says_why_not(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    module = case.module.eval()

    def export() -> None:
        isthmus.export(
            module, case.example, path=tmp_path / "b", formats=(form,), dynamic=case.dynamic,
            dims=case.dims,
        )  # fmt: skip

    if form in case.refused:
        with pytest.raises(isthmus.ExportError, match=case.refused[form]):
            export()
        assert not (tmp_path / "b").exists()
        return
    export()
    model = isthmus.load(tmp_path / "b", engine=ENGINES[form], trust="native")
    for call in (case.example, *case.unseen):
        with torch.no_grad():
            expected = module(*call)
        for one, other in zip(leaves(model(*call)), leaves(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
