"""Which integer inputs index a table of the model, and how far that goes.

An id beyond the vocabulary is an error in eager mode. Engines differ: one answers wrongly without a
word, another one ends the process. So the range is part of the signature, and the native core
checks it before any engine sees the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isthmus.bundle.manifest import Method, ValueRange
from isthmus.capture.run_module import ModuleRunner, fresh

__all__ = ["index_ranges"]

_aten: Any = torch.ops.aten

_KEEP_VALUES = {_aten.clone, _aten._to_copy, _aten.repeat, _aten.cat, _aten.stack}
"""Operators that copy: each value that they are given is in what they give."""

_EMBEDDINGS = {_aten.embedding, _aten._embedding_bag, _aten._embedding_bag_forward_only}
"""Operators of (table, indices, ...), which take no negative index."""


def index_ranges(
    runner: ModuleRunner, method: Method, examples: Sequence[Mapping[str, Any]]
) -> dict[str, ValueRange]:
    """Inclusive ranges of the values of integer inputs, by name; inputs without one are left out.

    An input has a range when each value of it, in every example, indexes a parameter or buffer, as
    `nn.Embedding` does with ids; and, for inputs on the CPU, when eager itself fails on the first
    value beyond. Ids that the model clamps, masks or shifts first have none.

    Args:
        runner: The runner of the module.
        method: One of the module's methods.
        examples: Inputs by name, each set of which the method runs on.
    """
    every: list[dict[str, ValueRange]] = []
    for values in examples:
        watch = _Watch(runner.module, values)
        try:
            with runner.run(), watch:
                runner.call(method, watch.values)
        except Exception:  # what does not run under watch is not known
            return {}
        every.append(watch.found)
    common: dict[str, ValueRange] = {}
    for name in every[0]:
        if all(name in one for one in every):
            for one in every:
                _narrow(common, name, one[name])
    return {
        name: found
        for name, found in common.items()
        if all(_eager_fails(runner, method, example, name, found) for example in examples)
    }


def _narrow(ranges: dict[str, ValueRange], name: str, value_range: ValueRange) -> None:
    known = ranges.get(name, value_range)
    ranges[name] = ValueRange(max(value_range.min, known.min), min(value_range.max, known.max))


def _eager_fails(
    runner: ModuleRunner,
    method: Method,
    values: Mapping[str, Any],
    name: str,
    allowed: ValueRange,
) -> bool:
    """Whether eager refuses the next values on both sides, as the last of all and as all of them.

    A model on a GPU is not asked: such an index ends all work on the device for good.
    """
    value: Tensor = values[name]
    bounds = torch.iinfo(value.dtype)
    beyond = [one for one in (allowed.min - 1, allowed.max + 1) if bounds.min <= one <= bounds.max]
    if value.device.type != "cpu":
        return bool(beyond)
    for one in beyond:
        last = value.clone(memory_format=torch.contiguous_format)
        last.view(-1)[-1] = one
        for bad in (last, torch.full_like(value, one)):
            try:
                with runner.run():
                    runner.call(method, {**values, name: bad})
            except Exception:
                continue
            return False
    return bool(beyond)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operator of a call, and follows the integer inputs through views and copies."""

    def __init__(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = fresh(values)
        """To call the method with: the inputs, in storages of their own."""
        self.found: dict[str, ValueRange] = {}
        self._names: dict[int, frozenset[str]] = {}
        """By the address of a storage: the inputs whose values it holds."""
        self._alive: list[Tensor] = []  # an address is of one storage only as long as that lives
        every = chain(module.parameters(), module.buffers())
        self._tables = {_place(one) for one in every if _is_plain(one)}
        for name, value in self.values.items():
            if isinstance(value, Tensor):
                self._follow(value, frozenset({name}))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operator = func.overloadpacket
        for index, lowest, highest in self._lookups(operator, args):
            for name in self._held(index):
                _narrow(self.found, name, ValueRange(lowest, highest))
        result = func(*args, **(kwargs or {}))
        for value in _written(func, args, kwargs or {}):
            self._names.pop(_address(value), None)
        if operator in _KEEP_VALUES:
            given = (tree_leaf for tree_leaf in tree_leaves(args) if isinstance(tree_leaf, Tensor))
            self._follow(result, frozenset().union(*(self._held(one) for one in given)))
        return result

    def _follow(self, value: Tensor, names: frozenset[str]) -> None:
        if names and _is_integer(value) and value.numel():
            self._names[_address(value)] = names
            self._alive.append(value)

    def _held(self, value: Tensor) -> frozenset[str]:
        """The inputs all of whose values a tensor holds: a slice of an input does not."""
        if not _is_plain(value) or not value.numel():
            return frozenset()
        names = self._names.get(_address(value), frozenset())
        pairs = zip(value.shape, value.stride(), strict=True)
        distinct = math.prod(size for size, stride in pairs if stride)
        whole = distinct * value.element_size() == value.untyped_storage().nbytes()
        return names if whole else frozenset()

    def _lookups(self, operator: Any, args: Sequence[Any]) -> Iterator[tuple[Tensor, int, int]]:
        """Indices into a parameter or buffer, each with the lowest and highest that is allowed."""
        if not args or not isinstance(args[0], Tensor) or not _is_plain(args[0]):
            return
        table = args[0]
        if _place(table) not in self._tables:
            return
        if operator in _EMBEDDINGS:
            yield args[1], 0, table.shape[0] - 1
        elif operator is _aten.index_select:
            yield args[2], 0, table.shape[args[1]] - 1
        elif operator is _aten.index:
            indices = args[1]
            if all(index is None or _is_integer(index) for index in indices):
                for size, index in zip(table.shape, indices, strict=False):
                    if index is not None:
                        yield index, -size, size - 1


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """What an operator writes in place."""
    for at, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[at] if at < len(args) else kwargs.get(argument.name)
            yield from (tree_leaf for tree_leaf in tree_leaves(value) if _is_plain(tree_leaf))


def _is_plain(value: Any) -> bool:
    """A dense tensor with memory of its own to know it by, and no subclass that hides it."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and not value.is_meta
    )


def _is_integer(value: Tensor) -> bool:
    return value.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _place(value: Tensor) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    return _address(value), int(value.storage_offset()), tuple(value.shape), value.stride()
