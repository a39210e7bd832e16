"""Common mistakes with buffers are named; other differences are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from isthmus.proof.replay import input_difference

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def image(seed: int = 0, size: tuple[int, ...] = (2, 3, 24, 32)) -> Tensor:
    """Returns a smooth image with values from 0 to 1 and different channels."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((*size[:-2], 6, 8), generator=generator)
    smooth = torch.nn.functional.interpolate(small.reshape(1, -1, 6, 8), size[-2:], mode="bilinear")
    return smooth.reshape(size) * 0.9 + 0.1 * torch.rand(size, generator=generator)


def normalised(seed: int = 0) -> Tensor:
    return (image(seed) - MEAN) / DEVIATION


def misread(value: Tensor, written: torch.dtype) -> Tensor:
    """Returns a buffer of another type, read as one of the expected type."""
    raw = value.to(written).contiguous().flatten().view(torch.uint8)
    wanted = value.numel() * value.element_size()
    raw = torch.cat([raw, torch.full((max(0, wanted - len(raw)),), 7, dtype=torch.uint8)])
    return raw[:wanted].clone().view(value.dtype).reshape(value.shape)


IMAGES: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "swapped channels": (lambda x: x.flip(1), "swapped channels", "BGR"),
    "channels rotated": (lambda x: x[:, [1, 2, 0]], "swapped channels", "[1, 2, 0]"),
    "NHWC named NCHW": (
        lambda x: x.permute(0, 2, 3, 1).contiguous().reshape(x.shape),
        "layout",
        "memory in the order NHWC",
    ),
    "NHWC": (lambda x: x.permute(0, 2, 3, 1), "layout", "is NHWC, expected NCHW"),
    "0 to 255": (lambda x: x * 255, "scale", "255 times"),
    "divided twice": (lambda x: x / 255, "scale", "0.003922 times"),
    "another mean": (lambda x: x + 0.25, "mean", "plus 0.25"),
    "means by channel": (lambda x: x - MEAN, "mean", "plus [-0.485"),
    "height and width": (
        lambda x: x.transpose(2, 3).contiguous().reshape(x.shape),
        "transposed",
        "named as if they were in order",
    ),
    "upside down": (lambda x: x.flip(2), "flipped", "axis 2"),
    "mirrored": (lambda x: x.flip(3), "flipped", "axis 3"),
    "double as float": (lambda x: misread(x, torch.float64), "reinterpreted bytes", "float64"),
    "half as float": (lambda x: misread(x, torch.float16), "reinterpreted bytes", "float16"),
    "big-endian": (
        lambda x: torch.from_numpy(x.numpy().byteswap()),
        "reinterpreted bytes",
        "other order",
    ),
    "swapped and 0 to 255": (lambda x: x.flip(1) * 255, "swapped channels + scale", "255"),
    "NHWC, BGR, 0 to 255": (
        lambda x: (x.flip(1) * 255).permute(0, 2, 3, 1).contiguous().reshape(x.shape),
        "layout + swapped channels + scale",
        "BGR",
    ),
    "never filled": (torch.zeros_like, "constant", "0 everywhere"),
    "freed": (
        lambda x: x.masked_fill(torch.rand(x.shape) < 0.1, torch.nan),
        "not finite",
        "NaN or infinite",
    ),
    "batch reversed": (lambda x: x.flip(0), "order of rows", "[1, 0]"),
    "half precision": (lambda x: x.half().float(), "rounding", "rounded"),
    "extra axis": (lambda x: x[None], "shape", "another shape"),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("seed", range(3))
def test_mistakes_with_images(name: str, seed: int) -> None:
    make, kind, word = IMAGES[name]
    expected = image(seed)
    torch.manual_seed(seed)
    found = input_difference("pixels", expected, make(expected))
    assert found.kind == kind, found
    assert word in found.sentence, found
    assert bool(found) == (kind == "rounding")
    assert found.remedy or found


def test_square_images_are_not_taken_for_transposed_ones() -> None:
    expected = image(size=(1, 3, 32, 32))
    found = input_difference("pixels", expected, expected.transpose(2, 3).contiguous())
    assert found.kind == "transposed"
    layout = expected.permute(0, 2, 3, 1).contiguous().reshape(expected.shape)
    assert input_difference("pixels", expected, layout).kind == "layout"


def test_a_missing_normalisation_is_known_by_its_numbers() -> None:
    for top, text in ((1, "from 0 to 1"), (255, "from 0 to 255")):
        found = input_difference("pixels", normalised(), image() * top)
        assert found.kind == "scale"
        assert "not normalised" in found.sentence and text in found.sentence
        assert "ImageNet" in found.sentence
    found = input_difference("pixels", image(), normalised())
    assert "leave the normalisation out" in found.remedy
    swapped = input_difference("pixels", normalised(), image().flip(1) * 255)
    assert swapped.kind == "swapped channels + scale"


IDS = torch.tensor(
    [
        [101, 2023, 2003, 1037, 3231, 102, 0, 0, 0, 0],
        [101, 7592, 2088, 102, 0, 0, 0, 0, 0, 0],
        [101, 2178, 2936, 6251, 2182, 2005, 2062, 19204, 2015, 102],
    ]
)
MASK = (IDS != 0).long()


def left_padded(rows: Tensor) -> Tensor:
    padded = torch.zeros_like(rows)
    for at, row in enumerate(rows):
        kept = row[row != 0]
        padded[at, rows.shape[1] - len(kept) :] = kept
    return padded


def without_specials(rows: Tensor) -> Tensor:
    padded = torch.zeros_like(rows)
    for at, row in enumerate(rows):
        kept = row[row != 0][1:-1]
        padded[at, : len(kept)] = kept
    return padded


TOKENS: dict[str, tuple[Tensor, Tensor, str, str]] = {
    "left padding": (IDS, left_padded(IDS), "padding side", "padded on the left"),
    "right padding": (left_padded(IDS), IDS, "padding side", "padded on the right"),
    "left mask": (MASK, left_padded(MASK), "padding side", "padded on the left"),
    "all larger by one": (IDS, IDS + 1, "off-by-one ids", "1 larger"),
    "one smaller but padding": (IDS, IDS - MASK, "off-by-one ids", "those equal to 0 excepted"),
    "late": (
        IDS,
        torch.cat([IDS[:, :1], IDS[:, :-1]], 1),
        "shifted tokens",
        "1 token late",
    ),
    "no specials": (IDS, without_specials(IDS), "special tokens", "lacks the first and the last"),
    "specials twice": (without_specials(IDS), IDS, "special tokens", "on top of"),
    "longer": (
        IDS,
        torch.nn.functional.pad(IDS, (0, 6)),
        "padding",
        "padded to 16 tokens, expected 10",
    ),
    "another padding": (IDS, torch.where(IDS == 0, 1, IDS), "padding", "with 1, expected 0"),
    "inverted": (MASK, 1 - MASK, "inverted mask", "1 where 0"),
    "ignored": (MASK, torch.ones_like(MASK), "mask ignored", "10 of 30"),
    "rows in another order": (IDS, IDS[[2, 0, 1]], "order of rows", "another order"),
    "int32 as int64": (IDS, misread(IDS, torch.int32), "reinterpreted bytes", "int32"),
    "int32": (IDS, IDS.int(), "dtype", "another type"),
    "zeros": (IDS, torch.zeros_like(IDS), "constant", "0 everywhere"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_mistakes_with_tokens(name: str) -> None:
    expected, actual, kind, word = TOKENS[name]
    found = input_difference("input_ids", expected, actual)
    assert found.kind == kind, found
    assert word in found.sentence, found
    assert not found and found.remedy


def test_random_differences_are_no_known_mistake() -> None:
    kinds = []
    for seed in range(40):
        torch.manual_seed(seed)
        shapes = [(1, 3, 16, 16), (4, 8), (2, 5, 7), (12,), (2, 2), (1, 2), (3, 16)]
        for shape in shapes:
            kinds.append(input_difference("x", torch.randn(shape), torch.randn(shape)).kind)
        ids = [torch.randint(5, 30000, (2, 12)) for _ in range(2)]
        kinds.append(input_difference("ids", *ids).kind)
        kinds.append(input_difference("x", image(seed), image(seed + 100)).kind)
        noisy = image(seed) + 0.05 * torch.randn(2, 3, 24, 32)
        kinds.append(input_difference("x", image(seed), noisy).kind)
    assert set(kinds) == {"other"}


def test_equal_and_one_sided_inputs() -> None:
    x = torch.randn(2, 3)
    assert input_difference("x", x, x.clone()).kind == "same"
    with_nan = torch.tensor([1.0, torch.nan])
    assert input_difference("x", with_nan, with_nan.clone()).kind == "same"
    assert input_difference("x", None, None)
    assert input_difference("x", x, None).kind == "missing"
    assert input_difference("x", None, x).kind == "unexpected"
    assert input_difference("n", torch.tensor(3), torch.tensor(4)).kind == "other"
    assert input_difference("x", torch.empty(0, 3), torch.empty(0, 3))
    assert input_difference("b", torch.tensor([True, False]), torch.tensor([False, False])).kind


def test_views_of_numpy_memory() -> None:
    value = torch.from_numpy(np.arange(12, dtype=np.float64).reshape(3, 4) / 7)
    wrong = torch.from_numpy(value.numpy().view(np.float32)[:, :4].copy())
    found = input_difference("x", value.float(), wrong)
    assert not found
