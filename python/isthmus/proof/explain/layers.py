"""Records the inputs and outputs of submodules in one call of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.capture.run_module import watching

__all__ = ["Layer", "Values", "in_chunks", "layers_of", "record", "source_of", "tensors_in"]


@dataclass(frozen=True)
class Layer:
    """A submodule that a call runs."""

    path: str
    """The dotted path; the model itself is ""."""
    nbytes: int
    """The size of its inputs and outputs."""


@dataclass
class Values:
    """The tensors of a submodule's first call, on the CPU, in the order of the arguments."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields all tensors of nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


@contextmanager
def record(module: nn.Module, paths: Collection[str]) -> Iterator[dict[str, Values]]:
    """Records copies of the values of some submodules' first calls while the context lasts.

    Args:
        module: The model.
        paths: The dotted paths of the submodules.
    """
    recorded: dict[str, Values] = {}
    handles = []
    for path, submodule in module.named_modules():
        if path in paths and not isinstance(submodule, torch.jit.ScriptModule):
            handles += _hooked(submodule, path, recorded)
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: nn.Module, path: str, recorded: dict[str, Values]) -> list[Any]:
    begun: list[Values] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not begun:
            begun.append(Values(inputs=_copies((args, kwargs))))

    def after(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if path not in recorded and begun:
            begun[0].outputs = _copies(result)
            recorded[path] = begun[0]

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]


def _copies(value: Any) -> tuple[Tensor, ...]:
    # Later operators may write in place.
    return tuple(tensor.detach().cpu().clone() for tensor in tensors_in(value))


@contextmanager
def layers_of(module: nn.Module) -> Iterator[list[Layer]]:
    """Lists the submodules that run while the context lasts, in the order in which they finish.

    A submodule finishes after everything inside it. No values are kept.
    """
    layers: list[Layer] = []
    seen: set[str] = set()

    def returned(path: str, arguments: Any, result: Any) -> None:
        if path not in seen:
            seen.add(path)
            used = (*tensors_in(arguments), *tensors_in(result))
            size = sum(tensor.numel() * tensor.element_size() for tensor in used)
            layers.append(Layer(path, size))

    with watching(module, returned):
        yield layers


def in_chunks(layers: Sequence[Layer], budget: int) -> Iterator[list[Layer]]:
    """Yields the layers in order, as many at a time as fit in `budget` bytes; at least one."""
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
    """Returns file:line of a module's forward; empty if Python has no source of it."""
    import inspect

    try:
        function = inspect.unwrap(type(module).forward)
        file = inspect.getsourcefile(function)
        _, line = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return ""
    return f"{file}:{line}"
