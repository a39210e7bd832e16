"""Recognises submodules that PyTorch's quantisation made."""

from __future__ import annotations

from torch import nn

__all__ = ["is_quantised", "quantised_parts"]


def is_quantised(module: nn.Module) -> bool:
    """Returns True for a module whose class is one of PyTorch's quantised ones."""
    return any(
        base.__module__.startswith("torch.ao.nn.") and ".quantized" in base.__module__
        for base in type(module).__mro__
    )


def quantised_parts(module: nn.Module) -> list[str]:
    """Returns the dotted paths of the outermost quantised submodules."""
    paths: list[str] = []
    for path, submodule in module.named_modules():
        inside = any(path.startswith(f"{outer}." if outer else "") for outer in paths)
        if is_quantised(submodule) and not inside:
            paths.append(path)
    return paths
