"""Buffers that were read as another type than they were written as."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isthmus.proof.replay.mistake import Mistake

_TYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
)
_MIN_BYTES = 8
"""The least number of equal bytes that proves anything."""


def wrong_type(expected: Tensor, actual: Tensor) -> Mistake | None:
    """Finds out whether `actual` holds the bytes of `expected` written as another type.

    Of wider elements only the first part fits; narrower ones fill only the first part.
    """
    if not actual.numel() or not actual.is_contiguous():
        actual = actual.contiguous()
    got = _bytes(actual)
    for dtype in _TYPES:
        if dtype == actual.dtype:
            continue
        written = _bytes(expected.to(dtype))
        common = min(len(got), len(written))
        if common < _MIN_BYTES or got[:common] != written[:common] or _uniform(got[:common]):
            continue
        old, new = _name(dtype), _name(actual.dtype)
        part = "" if common == len(got) else f" (the first {common} of {len(got)} bytes)"
        return Mistake(
            "reinterpreted bytes",
            f"holds the bytes of the values expected written as {old}, but read as {new}{part}",
            f"name the buffer {old} and convert the tensor, instead of naming it {new}",
        )
    if _bytes(expected.to(actual.dtype)) == _swapped(actual) and not _uniform(got):
        return Mistake(
            "reinterpreted bytes",
            "holds the values expected with the bytes of each in the other order (big-endian data)",
            "swap the bytes of what was read from the file or the network",
        )
    return None


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _swapped(value: Tensor) -> bytes:
    size = value.element_size()
    if size == 1:
        return b""
    raw = np.frombuffer(_bytes(value), dtype=np.uint8).reshape(-1, size)
    return raw[:, ::-1].tobytes()


def _uniform(content: bytes) -> bool:
    """Returns True if all bytes are equal: zeros are the same in every type."""
    return len(set(content)) < 2


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
