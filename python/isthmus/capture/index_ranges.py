"""Finds the integer inputs that index a table of the model, and the range of valid indices.

An id beyond the vocabulary is an error in eager mode, but not in every engine: some answer wrongly
without an error, others end the process. So the range is part of the signature, and the native core
checks it before any engine gets the input.
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
"""Operators whose result holds every value of their arguments."""

_EMBEDDINGS = {_aten.embedding, _aten._embedding_bag, _aten._embedding_bag_forward_only}
"""Operators of (table, indices, ...) that take no negative index."""


def index_ranges(
    runner: ModuleRunner, method: Method, examples: Sequence[Mapping[str, Any]]
) -> dict[str, ValueRange]:
    """Returns the inclusive ranges of the values of integer inputs, by name.

    An input has a range when all its values, in every example, index a parameter or buffer, as
    `nn.Embedding` does with ids, and, for inputs on the CPU, when eager mode fails on the first
    value outside of it. Ids that the model clamps, masks or shifts first have no range.

    Args:
        runner: The runner of the module.
        method: One of the module's methods.
        examples: Sets of inputs by name, on each of which the method runs.
    """
    observed: list[dict[str, ValueRange]] = []
    for values in examples:
        watch = _Watch(runner.module, values)
        try:
            with runner.run(), watch:
                runner.call(method, watch.values)
        except Exception:  # the module does not run under a dispatch mode
            return {}
        observed.append(watch.ranges)
    common: dict[str, ValueRange] = {}
    for name in observed[0]:
        if all(name in ranges for ranges in observed):
            for ranges in observed:
                _narrow(common, name, ranges[name])
    return {
        name: allowed
        for name, allowed in common.items()
        if all(_eager_fails(runner, method, example, name, allowed) for example in examples)
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
    """Returns True when eager mode fails on the next value on either side of the range.

    Each is tried as the last value of the input and as all of its values. On a GPU it is not tried:
    such an index makes the device unusable for the rest of the process.
    """
    value: Tensor = values[name]
    bounds = torch.iinfo(value.dtype)
    neighbours = (allowed.min - 1, allowed.max + 1)
    beyond = [index for index in neighbours if bounds.min <= index <= bounds.max]
    if value.device.type != "cpu":
        return bool(beyond)
    for index in beyond:
        last = value.clone(memory_format=torch.contiguous_format)
        last.view(-1)[-1] = index
        for bad in (last, torch.full_like(value, index)):
            try:
                with runner.run():
                    runner.call(method, {**values, name: bad})
            except Exception:
                continue
            return False
    return bool(beyond)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes each operator of a call, and tracks the integer inputs through views and copies."""

    def __init__(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = fresh(values)
        """The inputs to call the method with, each in a storage of its own."""
        self.ranges: dict[str, ValueRange] = {}
        """The valid indices of each input that indexed a table."""
        self._names: dict[int, frozenset[str]] = {}
        """Maps the address of a storage to the inputs whose values it holds."""
        self._alive: list[Tensor] = []  # so that no address is used for another storage
        tensors = chain(module.parameters(), module.buffers())
        self._tables = {_place(tensor) for tensor in tensors if _is_plain(tensor)}
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
                _narrow(self.ranges, name, ValueRange(lowest, highest))
        result = func(*args, **(kwargs or {}))
        for value in _written(func, args, kwargs or {}):
            self._names.pop(_address(value), None)
        if operator in _KEEP_VALUES:
            held = (self._held(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            self._follow(result, frozenset().union(*held))
        return result

    def _follow(self, value: Tensor, names: frozenset[str]) -> None:
        if names and _is_integer(value) and value.numel():
            self._names[_address(value)] = names
            self._alive.append(value)

    def _held(self, value: Tensor) -> frozenset[str]:
        """Returns the inputs all of whose values a tensor holds; a slice of an input does not."""
        if not _is_plain(value) or not value.numel():
            return frozenset()
        names = self._names.get(_address(value), frozenset())
        pairs = zip(value.shape, value.stride(), strict=True)
        distinct = math.prod(size for size, stride in pairs if stride)
        whole = distinct * value.element_size() == value.untyped_storage().nbytes()
        return names if whole else frozenset()

    def _lookups(self, operator: Any, args: Sequence[Any]) -> Iterator[tuple[Tensor, int, int]]:
        """Yields indices into a parameter or buffer, with the lowest and highest valid index."""
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
    """Yields the tensors that an operator writes in place."""
    for at, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[at] if at < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(value) if _is_plain(leaf))


def _is_plain(value: Any) -> bool:
    """Returns True for a dense tensor that is identified by its memory, and for no subclass."""
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
