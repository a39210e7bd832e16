"""Torch's global flags and warnings, put in order for an export and put back afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def quiet_torch() -> Iterator[None]:
    """No gradients, no autocast, and no notes that TorchScript is deprecated.

    The grad mode, the default dtype and the random generators are as before when it ends, also
    when the user's module changes them.
    """
    default_dtype = torch.get_default_dtype()
    cuda: Any = torch.cuda
    devices = list(range(cuda.device_count())) if cuda.is_initialized() else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False)
        if torch.cuda.is_available()
        else warnings.catch_warnings(),
        warnings.catch_warnings(),
    ):
        ignore_deprecation()
        try:
            yield
        finally:
            torch.set_default_dtype(default_dtype)


def ignore_deprecation() -> None:
    """Inside `warnings.catch_warnings()`: drops torch's notes that TorchScript is deprecated."""
    warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=r".*TorchScript.*", category=DeprecationWarning)
