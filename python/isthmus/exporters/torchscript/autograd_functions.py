"""Lets a trace see what the `forward` of a `torch.autograd.Function` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import function as torch_functions

__all__ = ["traced_through"]


class _Context:
    """The `ctx` of a call whose gradient is never asked for. Takes any attribute."""

    saved_tensors: tuple[Any, ...] = ()
    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keeps the tensors for a `forward` that reads them again."""
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Does nothing: there is no forward derivative."""

    def mark_dirty(self, *tensors: Any) -> None:
        """Does nothing: the trace records what is written."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Does nothing: there is no backward pass."""

    def set_materialize_grads(self, value: bool) -> None:
        """Does nothing: there is no backward pass."""


@contextmanager
def traced_through() -> Iterator[None]:
    """Runs the `forward` of each function in place of a node that calls Python.

    The user's classes are left alone. `Function.apply` looks its implementation up in its base
    class at each call, so that an `apply` that was taken from a class earlier is reached, too.
    """
    base: Any = torch_functions._SingleLevelFunction
    base.apply = classmethod(_forward)
    try:
        yield
    finally:
        del base.apply


def _forward(cls: Any, *args: Any, **kwargs: Any) -> Any:
    context = _Context()
    context.needs_input_grad = tuple(False for _ in args)
    with torch.no_grad():
        if cls.setup_context is torch_functions._SingleLevelFunction.setup_context:
            return cls.forward(context, *args, **kwargs)
        output = cls.forward(*args, **kwargs)
        cls.setup_context(context, args, output)
        return output
