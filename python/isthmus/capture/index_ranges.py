"""Finds the integer inputs that index a table of the model, and the range of valid indices.

An id beyond the vocabulary is an error in eager mode, but not in every engine: some answer wrongly
without an error, others end the process. The same holds for an edge to a node that is not there. So
the range is part of the signature, and the native core checks it before any engine gets the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from isthmus.bundle.manifest import DimRange, Method, ValueRange
from isthmus.bundle.size_expression import parse_size
from isthmus.capture.made_values import Donor, bounds_of, made_values
from isthmus.capture.operator_mode import OperatorMode
from isthmus.capture.run_module import ModuleRunner, fresh

__all__ = ["index_ranges"]

_aten: Any = torch.ops.aten

_COPIES = {_aten.clone, _aten._to_copy, _aten.repeat, _aten.cat, _aten.stack}
"""Operators whose result holds every value of their arguments, each at a place of its own."""

_EMBEDDINGS = {_aten.embedding, _aten._embedding_bag, _aten._embedding_bag_forward_only}
"""Operators of (table, indices, ...) that take no negative index."""

_BAGS = {_aten._embedding_bag, _aten._embedding_bag_forward_only}
"""Operators of (table, indices, offsets, ...)."""

_ALONG_AXIS = {
    _aten.index_select,
    _aten.gather,
    _aten.scatter,
    _aten.scatter_,
    _aten.scatter_add,
    _aten.scatter_add_,
    _aten.scatter_reduce,
    _aten.scatter_reduce_,
    _aten.index_add,
    _aten.index_add_,
    _aten.index_copy,
    _aten.index_copy_,
    _aten.index_reduce,
    _aten.index_reduce_,
}
"""Operators of (table, axis, indices, ...) that take no negative index."""

_SUBSCRIPTS = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
"""Operators of (table, one index for each axis, ...); negative ones count from the end."""


@dataclass(frozen=True)
class _Lookup:
    """One use of values as indices."""

    operator: str
    name: str
    """The input that holds them."""
    places: frozenset[int]
    """The elements of the input that are used."""
    size: int
    """The number of valid indices from 0."""
    negative: bool
    """True where negative indices count from the end."""
    checked: bool
    """False where eager does not check every index, so that it must not be asked."""
    constant: bool
    """True where the table is a parameter or buffer."""


@dataclass(frozen=True)
class _Bound:
    """What an input indexes: a table of a size that is a constant or an expression."""

    size: int | str
    negative: bool
    checked: bool


def index_ranges(
    runner: ModuleRunner,
    method: Method,
    examples: Sequence[Donor],
    dims: Mapping[str, DimRange] | None = None,
) -> dict[str, ValueRange]:
    """Returns the inclusive ranges of the values of integer inputs, by name.

    An input has a range when all its values, in every example, index a parameter or buffer, as
    `nn.Embedding` does with ids, or a tensor whose size is constant or follows from a dimension, as
    edges do with nodes; and, for inputs on the CPU, when eager mode fails on the first value
    outside of it. Ids that the model clamps, masks or shifts first have no range.

    Args:
        runner: The runner of the module.
        method: One of the module's methods.
        examples: Sets of inputs by name with their sizes, on each of which the method runs.
        dims: The ranges of the dimensions, of which other sizes are tried.
    """
    runs: list[tuple[Donor, list[_Lookup]]] = []
    for example in examples:
        lookups = _observed(runner, method, example.values)
        if lookups is None:
            return {}
        runs.append((example, lookups))
    if not any(lookups for _, lookups in runs):
        return {}
    further = (_other_sizes(runner, method, examples[-1], dims or {}), _equal_values(examples[0]))
    for tried in further:
        lookups = _observed(runner, method, tried.values) if tried is not None else None
        if tried is not None and lookups is not None:
            runs.append((tried, lookups))
    ranges: dict[str, ValueRange] = {}
    for name in dict.fromkeys(lookup.name for _, lookups in runs for lookup in lookups):
        bound = _bound_of(name, runs, dims or {})
        if bound is None:
            continue
        allowed = _range_of(bound)
        if not bound.checked or all(
            _eager_fails(runner, method, example.values, name, allowed, example.sizes)
            for example in examples
        ):
            ranges[name] = allowed
    return ranges


def _observed(
    runner: ModuleRunner, method: Method, values: Mapping[str, Any]
) -> list[_Lookup] | None:
    """Returns the lookups of a call; None where the module fails, also under a dispatch mode."""
    watch = _Watch(runner.module, values)
    try:
        with runner.run(), watch:
            runner.call(method, watch.values)
    except Exception:
        return None
    return watch.lookups


def _other_sizes(
    runner: ModuleRunner, method: Method, example: Donor, dims: Mapping[str, DimRange]
) -> Donor | None:
    """Returns inputs at which every dimension has another size, each by another difference."""
    sizes = dict(example.sizes)
    for at, (name, size) in enumerate(example.sizes.items(), start=1):
        limits = dims.get(name, DimRange(size, size))
        others = [size + at, size + 1, size - at, size - 1]
        others += [n for n in limits.sizes if n != size]
        sizes[name] = next((n for n in others if n > 0 and limits.allows(n)), size)
    axes = {
        spec.name: {at: size for at, size in enumerate(spec.shape or ()) if isinstance(size, str)}
        for spec in method.inputs
    }
    for _, values in made_values([example], method.inputs, axes, sizes):
        if runner.accepts(method, values):
            return Donor(values, sizes)
    return None


def _equal_values(example: Donor) -> Donor:
    """Returns the example with every integer tensor filled with its least value.

    A size that changes with that follows from values, and not from sizes.
    """
    filled = {
        name: torch.full_like(value, int(value.min()))
        if isinstance(value, Tensor) and _is_integer(value) and value.numel()
        else value
        for name, value in example.values.items()
    }
    return Donor(filled, example.sizes)


# --- from lookups to ranges -----------------------------------------------------------------------


def _bound_of(
    name: str, runs: Sequence[tuple[Donor, list[_Lookup]]], dims: Mapping[str, DimRange]
) -> _Bound | None:
    """Returns what bounds all values of an input in every run; None where nothing does."""
    of_input = [[lookup for lookup in lookups if lookup.name == name] for _, lookups in runs]
    kinds = [[(lookup.operator, lookup.negative) for lookup in lookups] for lookups in of_input]
    aligned = all(kind == kinds[0] for kind in kinds)
    sizes = [example.sizes for example, _ in runs]
    groups: list[dict[int | str, list[_Lookup]]] = []
    for lookups in of_input:
        group: dict[int | str, list[_Lookup]] = {}
        for at, lookup in enumerate(lookups):
            size: int | str | None = lookup.size if lookup.constant else None
            if size is None and aligned:
                size = _expression([others[at].size for others in of_input], sizes, dims)
            if size is not None:
                group.setdefault(size, []).append(lookup)
        groups.append(group)
    counts = [example.values[name].numel() for example, _ in runs]
    found: list[_Bound] = []
    for size in groups[0]:
        if not all(
            size in group
            and len(frozenset().union(*(lookup.places for lookup in group[size]))) == count
            for group, count in zip(groups, counts, strict=True)
        ):
            continue
        used = [lookup for group in groups for lookup in group[size]]
        negative = all(lookup.negative for lookup in used)
        found.append(_Bound(size, negative, all(lookup.checked for lookup in used)))
    # A named bound is the narrower one in practice; of constants the least counts.
    named = [bound for bound in found if isinstance(bound.size, str)]
    fixed = [bound for bound in found if isinstance(bound.size, int)]
    if fixed:
        least = min(fixed, key=lambda bound: bound.size)
        fixed = [_Bound(least.size, all(bound.negative for bound in fixed), least.checked)]
    return next(iter([*named, *fixed]), None)


def _expression(
    found: Sequence[int], sizes: Sequence[Mapping[str, int]], dims: Mapping[str, DimRange]
) -> int | str | None:
    """Returns the size of a table over all runs: a constant, or a dimension plus a constant."""
    varied = [name for name in sizes[0] if len({own[name] for own in sizes}) > 1]
    if len(set(found)) == 1:
        may_vary = [name for name, limits in dims.items() if limits.min != limits.max]
        return found[0] if set(may_vary) <= set(varied) else None
    matches = []
    for name in varied:
        differences = {size - own[name] for size, own in zip(found, sizes, strict=True)}
        if len(differences) == 1:
            matches.append(str(parse_size(name) + _constant(differences.pop())))
    return matches[0] if len(matches) == 1 else None


def _constant(value: int) -> Any:
    zero = parse_size("0")
    return zero + parse_size(str(value)) if value >= 0 else zero - parse_size(str(-value))


def _range_of(bound: _Bound) -> ValueRange:
    if isinstance(bound.size, int):
        return ValueRange(-bound.size if bound.negative else 0, bound.size - 1)
    size = parse_size(bound.size)
    lowest: int | str = str(parse_size("0") - size) if bound.negative else 0
    return ValueRange(lowest, str(size - parse_size("1")))


def _eager_fails(
    runner: ModuleRunner,
    method: Method,
    values: Mapping[str, Any],
    name: str,
    allowed: ValueRange,
    sizes: Mapping[str, int],
) -> bool:
    """Returns True when eager mode fails on the next value on either side of the range.

    Each is tried as the last value of the input and as all of its values. On a GPU it is not tried:
    such an index makes the device unusable for the rest of the process.
    """
    value: Tensor = values[name]
    bounds = torch.iinfo(value.dtype)
    lowest, highest = bounds_of(allowed, sizes)
    beyond = [index for index in (lowest - 1, highest + 1) if bounds.min <= index <= bounds.max]
    if value.device.type != "cpu":
        return bool(beyond)
    for index in beyond:
        last = value.clone(memory_format=torch.contiguous_format)
        last.view(-1)[-1] = index
        for bad in (last, torch.full_like(value, index)):
            if runner.accepts(method, {**values, name: bad}):
                return False
    return bool(beyond)


# --- observing ------------------------------------------------------------------------------------


class _Watch(OperatorMode):  # type: ignore[no-untyped-call]
    """Observes each operator of a call, and tracks integer inputs through views and copies."""

    supports_higher_order_operators = True

    def __init__(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = fresh(values)
        """The inputs to call the method with, each in a storage of its own."""
        self.lookups: list[_Lookup] = []
        self._origins: dict[int, Tensor] = {}
        """Maps the address of a storage to the element of an input that each of its elements is,
        numbered over all inputs; -1 for any other value."""
        self._first: dict[str, int] = {}
        """The number of the first element of each input."""
        self._alive: list[Tensor] = []  # so that no address is used for another storage
        tensors = chain(module.parameters(), module.buffers())
        self._tables = {_place(tensor) for tensor in tensors if _is_plain(tensor)}
        count = 0
        for name, value in self.values.items():
            if isinstance(value, Tensor) and _is_plain(value) and _is_integer(value):
                self._first[name] = count
                numbers = torch.arange(count, count + value.numel()).view(value.shape)
                self._follow(value, numbers)
                count += value.numel()

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        operator = getattr(func, "overloadpacket", None)
        for lookup in self._lookups(operator, args):
            self._add(str(operator), *lookup)
        result = func(*args, **kwargs)
        for value in _written(func, args, kwargs):
            self._origins.pop(_address(value), None)
        if operator in _COPIES and isinstance(result, Tensor) and _is_integer(result):
            self._follow(result, self._copied(operator, args))
        return result

    def _copied(self, operator: Any, args: tuple[Any, ...]) -> Tensor | None:
        """Returns the origins of a copy: the same copy of the origins of what was copied."""
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        origins = [self._origin(tensor) for tensor in tensors]
        if all(origin is None for origin in origins):
            return None
        known = [
            torch.full(tensor.shape, -1) if origin is None else origin
            for tensor, origin in zip(tensors, origins, strict=True)
        ]
        if operator is _aten.repeat:
            return known[0].repeat(args[1])
        if operator in (_aten.cat, _aten.stack):
            return operator(known, *args[1:])  # type: ignore[no-any-return]
        return known[0].clone()

    def _follow(self, value: Tensor, origin: Tensor | None) -> None:
        if origin is None or not value.numel() or not _is_plain(value):
            return
        elements = value.untyped_storage().nbytes() // value.element_size()
        storage = torch.full((elements,), -1)
        storage.as_strided(value.shape, value.stride(), value.storage_offset()).copy_(origin)
        self._origins[_address(value)] = storage
        self._alive.append(value)

    def _origin(self, value: Tensor) -> Tensor | None:
        """Returns the element of an input that each element is, int64 in the shape of `value`."""
        if not _is_plain(value) or not value.numel() or not _is_integer(value):
            return None
        storage = self._origins.get(_address(value))
        elements = value.untyped_storage().nbytes() // value.element_size()
        if storage is None or storage.numel() != elements:
            return None
        return storage.as_strided(value.shape, value.stride(), value.storage_offset())

    def _add(
        self, operator: str, index: Any, size: int, negative: bool, checked: bool, table: Tensor
    ) -> None:
        origin = self._origin(index) if isinstance(index, Tensor) else None
        if origin is None:
            return
        numbers = origin.unique()  # type: ignore[no-untyped-call]
        constant = _is_plain(table) and _place(table) in self._tables
        for name, first in self._first.items():
            last = first + self.values[name].numel()
            places = numbers[(numbers >= first) & (numbers < last)] - first
            if places.numel():
                held = frozenset(places.tolist())
                self.lookups.append(
                    _Lookup(operator, name, held, size, negative, checked, constant)
                )

    def _lookups(
        self, operator: Any, args: Sequence[Any]
    ) -> Iterator[tuple[Any, int, bool, bool, Tensor]]:
        """Yields indices with the size of what they index, whether negative ones are valid and
        every one is checked, and the table."""
        if not args or not isinstance(args[0], Tensor) or not args[0].dim():
            return
        table = args[0]
        if operator in _EMBEDDINGS:
            yield args[1], table.shape[0], False, True, table
            if operator in _BAGS:
                # An offset may be the number of indices, for bags that are empty.
                yield args[2], args[1].numel() + 1, False, False, args[1]
        elif operator in _ALONG_AXIS:
            yield args[2], table.shape[args[1]], False, True, table
        elif operator is _aten.take:
            yield args[1], table.numel(), True, True, table
        elif operator in _SUBSCRIPTS:
            indices = args[1]
            if all(index is None or _is_integer(index) for index in indices):
                for size, index in zip(table.shape, indices, strict=False):
                    if index is not None:
                        yield index, size, True, True, table


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yields the tensors that an operator writes in place."""
    schema = getattr(func, "_schema", None)  # torch's control flow has none
    for at, argument in enumerate(schema.arguments if schema is not None else ()):
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
