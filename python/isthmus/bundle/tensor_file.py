"""Reads files of named tensors: .npz and .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Returns tensors by name, on the CPU; pickled objects are refused.

    Args:
        path: The file; its ending says which format it has.
        what: The option that named the file, for messages.

    Raises:
        InvalidInput: There is no such file, it has another ending, or it is damaged.
    """
    import torch

    if not path.is_file():
        raise InvalidInput(f"{what}: there is no file {path}; expected .npz or .safetensors")
    try:
        if path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
    except Exception as error:  # the readers raise many types
        raise InvalidInput(f"{what}: {path} cannot be read ({error})") from error
    raise InvalidInput(f"{what}: expected an .npz or .safetensors file, got {path.name}")
