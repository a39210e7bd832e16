"""Sets torch's global flags and warnings for an export, and restores them afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Turns off gradients, autocast, and torch's notes that TorchScript is deprecated.

    The grad mode, the default dtype and the random generators are restored, also when the user's
    module changes them.
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
    """Drops torch's notes that TorchScript is deprecated; call it inside `catch_warnings()`."""
    warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=r".*TorchScript.*", category=DeprecationWarning)
