"""Operators in code compiled by AOTInductor compute what eager computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isthmus

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a compiler")


class Quotients(nn.Module):
    """Divides and takes remainders in all the ways that have a floor."""

    def forward(self, a: Tensor, b: Tensor, half: Tensor) -> tuple[Tensor, ...]:
        return (
            a // 0.7,
            a // b,
            7.0 // b,
            torch.div(a, b, rounding_mode="floor"),
            torch.div(a, b, rounding_mode="trunc"),
            a % 0.7,
            a % b,
            5.0 % b,
            half // 0.7,
            half % 0.3,
            a.to(torch.int64) // 3,
            a.to(torch.int64) % 3,
        )


def values(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns numbers, divisors and halves; many of their quotients are near whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-400, 400, (count,), generator=generator) / 2
    divisors = torch.tensor([0.7, -0.7, 0.1, -0.3])
    return a, divisors[torch.randint(0, 4, (count,), generator=generator)], a.half()


@pytest.mark.slow
def test_floors_of_quotients_are_those_of_eager_mode(tmp_path: Path) -> None:
    module = Quotients().eval()
    bundle = isthmus.export(
        module,
        values(6, 0),
        path=tmp_path / "quotients",
        dynamic={key: {0: "n"} for key in ("a", "b", "half")},
        dims={"n": (1, 2048)},
        formats=("aoti",),
    )
    model = isthmus.load(bundle.path, engine="aoti", trust="native")
    inputs = values(2000, 1)
    exact = (0, 1, 2, 3, 4, 8, 10, 11)
    for index, (expected, got) in enumerate(zip(module(*inputs), model(*inputs), strict=True)):
        assert got.dtype == expected.dtype
        if index in exact:
            assert torch.equal(got, expected), index
        else:
            torch.testing.assert_close(got, expected)
