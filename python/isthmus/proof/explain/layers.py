"""What each submodule takes and gives in one call of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Layer", "Values", "in_chunks", "layers_of", "record", "source_of", "tensors_in"]


@dataclass(frozen=True)
class Layer:
    """A submodule that a call reaches."""

    path: str
    """Dotted; the model itself is ""."""
    nbytes: int
    """Of its inputs and outputs."""
    calls: int


@dataclass
class Values:
    """The tensors of a submodule's first call, on the CPU, in the order of its arguments."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


@contextmanager
def record(module: nn.Module, paths: Collection[str]) -> Iterator[dict[str, Values]]:
    """Keeps what these submodules take and give while inside; a submodule's first call counts.

    Args:
        module: Whose submodules they are.
        paths: Dotted paths.
    """
    found: dict[str, Values] = {}
    handles = []
    for path, submodule in module.named_modules():
        if path in paths and not isinstance(submodule, torch.jit.ScriptModule):
            handles += _hooked(submodule, path, found)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: nn.Module, path: str, found: dict[str, Values]) -> list[Any]:
    begun: list[Values] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not begun:
            begun.append(Values(inputs=_kept((args, kwargs))))

    def after(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if path not in found and begun:
            begun[0].outputs = _kept(result)
            found[path] = begun[0]

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]


def _kept(value: Any) -> tuple[Tensor, ...]:
    # A copy: what comes after may write in place.
    return tuple(one.detach().cpu().clone() for one in tensors_in(value))


@contextmanager
def layers_of(module: nn.Module) -> Iterator[list[Layer]]:
    """Takes down the submodules in the order in which they finish; keeps no values.

    A submodule finishes after everything inside it.
    """
    found: list[Layer] = []
    calls: dict[str, int] = {}
    handles = []

    def note(path: str) -> Any:
        def after(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            calls[path] = calls.get(path, 0) + 1
            if calls[path] == 1:
                used = [*tensors_in((args, kwargs)), *tensors_in(result)]
                size = sum(one.numel() * one.element_size() for one in used)
                found.append(Layer(path, size, 1))

        return after

    for path, one in module.named_modules():
        if not isinstance(one, torch.jit.ScriptModule):
            handles.append(one.register_forward_hook(note(path), with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        found[:] = [Layer(one.path, one.nbytes, calls[one.path]) for one in found]


def in_chunks(layers: Sequence[Layer], budget: int) -> Iterator[list[Layer]]:
    """The layers in order, as many at a time as fit in a number of bytes; at least one."""
    chunk: list[Layer] = []
    size = 0
    for layer in layers:
        if chunk and size + layer.nbytes > budget:
            yield chunk
            chunk, size = [], 0
        chunk.append(layer)
        size += layer.nbytes
    if chunk:
        yield chunk


def source_of(module: nn.Module) -> str:
    """file:line of a module's forward; empty where Python has no source of it."""
    import inspect

    try:
        function = inspect.unwrap(type(module).forward)
        file = inspect.getsourcefile(function)
        _, line = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return ""
    return f"{file}:{line}"
