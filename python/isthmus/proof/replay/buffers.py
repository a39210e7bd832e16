"""Bytes that were read as another type than they were written as."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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
_LEAST_BYTES = 8
"""Fewer that agree prove nothing."""


def same_bytes_as(expected: Tensor, actual: Tensor) -> tuple[str, str] | None:
    """Whether the bytes of `actual` are those of `expected` written as another type.

    A buffer of wider elements is read in part; of narrower ones, only its beginning is of it.

    Returns:
        What was found and what to do; None where that is not it.
    """
    if not actual.numel() or not actual.is_contiguous():
        actual = actual.contiguous()
    got = _bytes(actual)
    for dtype in _TYPES:
        if dtype == actual.dtype:
            continue
        written = _bytes(expected.to(dtype))
        common = min(len(got), len(written))
        if common < _LEAST_BYTES or got[:common] != written[:common] or _dull(got[:common]):
            continue
        old, new = _name(dtype), _name(actual.dtype)
        part = "" if common == len(got) else f" (the first {common} of {len(got)} bytes)"
        return (
            f"holds the bytes of the values expected written as {old}, but read as {new}{part}",
            f"name the buffer {old} and convert the tensor, instead of naming it {new}",
        )
    if _bytes(expected.to(actual.dtype)) == _swapped(actual) and not _dull(got):
        return (
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


def _dull(content: bytes) -> bool:
    """All bytes alike, as those of zeros are in any type."""
    return len(set(content)) < 2


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
