"""Writes the bundles beside this file: isthmus 0.1.0 wrote them once, and they stay as they are.

    python -c 'import runpy; runpy.run_path("make.py", run_name="__main__")'

All weights are small whole numbers and inputs are rounded to whole numbers, so that float32
arithmetic is exact and every engine on every processor has to give the same bits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import isthmus


def whole(*shape: int) -> nn.Parameter:
    """A parameter of whole numbers from -3 to 3."""
    return nn.Parameter(torch.randint(-3, 4, shape).float())


class Pool(nn.Module):
    """Takes token ids and a mask, and gives a named tuple's worth of outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(23, 8)
        self.table.weight = whole(23, 8)
        self.up = whole(8, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.table(ids) @ self.up) * mask.unsqueeze(-1).float()
        return {"hidden": hidden, "count": mask.sum(dim=1), "total": hidden.sum(dim=1)}


class Running(nn.Module):
    """Keeps a running sum, and forgets it when told to."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = whole(4, 4)
        self.register_buffer("total", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.total += torch.round(x) @ self.weight
        return self.total.clone()

    def reset(self) -> None:
        self.total.zero_()


class Branching(nn.Module):
    """Decides by the values of its input, and takes a scale that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = whole(6, 3)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        y = torch.round(x) @ self.weight
        if bool(y.sum() > 0):
            y = y * 2
        if scale is not None:
            y = y * torch.round(scale)
        return y, [y.amax(dim=1), y.amin(dim=1)]


def main(folder: Path) -> None:
    torch.manual_seed(3)
    ids = torch.randint(0, 23, (3, 5))
    isthmus.export(
        Pool().eval(),
        (ids, torch.ones(3, 5, dtype=torch.int64)),
        path=folder / "pool",
        dynamic={"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}},
        dims={"batch": (1, 6), "length": (1, 9)},
        formats=("torchscript", "onnx"),
    )
    isthmus.export(
        Running().eval(),
        (torch.arange(8.0).reshape(2, 4),),
        path=folder / "running",
        methods={"reset": ((), {})},
    )
    isthmus.export(
        torch.jit.script(Branching().eval()),
        (torch.arange(12.0).reshape(2, 6), torch.tensor(3.0)),
        path=folder / "branching",
        dynamic={"x": {0: "batch"}},
        dims={"batch": (1, 5)},
    )


if __name__ == "__main__":
    main(Path())
