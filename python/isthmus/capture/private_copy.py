"""Copies a module so that an export may change the copy and leave the user's module as it is."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import InvalidInput

__all__ = ["inner_module", "private_copy"]


def inner_module(module: nn.Module) -> nn.Module | None:
    """Returns the module inside a wrapper of torch.compile or data parallelism; else None."""
    inner: Any = None
    if hasattr(module, "_orig_mod"):  # torch.compile
        inner = module._orig_mod
    elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return inner if isinstance(inner, nn.Module) else None


def private_copy(
    module: nn.Module, changed: Collection[str] = (), wrappers: Iterable[nn.Module] = ()
) -> nn.Module:
    """Copies a module's buffers and attributes; the copy shares the parameters.

    Args:
        module: The user's module; it is left as it is.
        changed: Dotted names of attributes that calls change, which are never shared.
        wrappers: Submodules in whose place the copy has what they wrap; see `inner_module`.

    Raises:
        InvalidInput: The module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for name, parameter in module.named_parameters():
        if name not in changed:
            memo[id(parameter)] = parameter
    for sub in module.modules():
        for value in vars(sub).values():
            if isinstance(value, torch.jit.ScriptFunction):
                memo[id(value)] = value  # immutable, and copy refuses it
            elif isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        # The outer of two nested wrappers comes first, and the inner one has to be copied first.
        for wrapper in reversed(list(wrappers)):
            inner = inner_module(wrapper)
            assert inner is not None
            memo[id(wrapper)] = copy.deepcopy(inner, memo)
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise InvalidInput(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and an "
            "export works on a copy so that yours is left as it is. Expected a module that "
            "copy.deepcopy accepts: keep locks, files and handles out of its attributes"
        ) from error
