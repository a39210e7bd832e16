"""Finds the sizes of outputs that a call computes from data, such as the number of detections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from isthmus.bundle.manifest import Method
from isthmus.capture.flat import returns_tree
from isthmus.capture.operator_mode import OperatorMode
from isthmus.capture.run_module import ModuleRunner, fresh

__all__ = ["computed_axes"]

_aten: Any = torch.ops.aten

_FIRST_AXIS = {
    "aten::nonzero",
    "aten::argwhere",
    "aten::masked_select",
    "aten::bincount",
    "aten::repeat_interleave",
    "torchvision::nms",
}
"""Operators whose result has a first axis that depends on data, and other axes that do not."""

_UNIQUE = {
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::unique_dim_consecutive",
}

_OF_DATA = "_isthmus_of_data"
"""The attribute of tensors whose values depend on those of the inputs."""

_RESIZED = {
    *("aten::slice", "aten::narrow", "aten::expand", "aten::repeat", "aten::split_with_sizes"),
    *("aten::as_strided", "aten::constant_pad_nd", "aten::view", "aten::reshape"),
}
"""Operators that take sizes as numbers."""


def computed_axes(
    runner: ModuleRunner, method: Method, examples: Sequence[Mapping[str, Any]]
) -> dict[str, frozenset[int]]:
    """Returns the axes of outputs whose sizes are computed from data, by output name.

    The operators of each example call are watched. An axis is counted that an operator such as
    `nonzero` makes, and every axis that later operators make of it. In doubt an axis is counted: a
    size that is called unknown is checked less, and a size that is called fixed would be refused.

    Args:
        runner: The runner of the module.
        method: One of the module's methods.
        examples: Sets of inputs by name, on each of which the method runs.
    """
    axes: dict[str, frozenset[int]] = {}
    for values in examples:
        try:
            with runner.run():
                own = fresh(values)
                watch = _Watch(own)
                with watch:
                    result = runner.call(method, own)
        except Exception:  # the module does not run under a dispatch mode
            return {}
        _, leaves = returns_tree(method.name, result)
        for name, value in leaves.items():
            if isinstance(value, Tensor) and watch.computed(value):
                axes[name] = axes.get(name, frozenset()) | watch.computed(value)
    return axes


class _Watch(OperatorMode):  # type: ignore[no-untyped-call]
    """Observes each operator of a call, and follows the axes with sizes from data."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self._axes: dict[int, frozenset[int]] = {}
        """Maps the id of a tensor to its axes with sizes from data."""
        self._alive: list[Tensor] = []  # so that no id is used for another tensor
        self._reads = False
        """True when Python code has read a whole number that depends on the inputs' values."""
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        self._sizes = {int(size) for value in tensors for size in value.shape}
        """The sizes of the inputs."""
        for value in tensors:
            setattr(value, _OF_DATA, True)

    def computed(self, value: Tensor) -> frozenset[int]:
        """Returns the axes of a tensor whose sizes are computed from data."""
        return self._axes.get(id(value), frozenset())

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        arguments = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        of_data = any(hasattr(argument, _OF_DATA) for argument in arguments)
        if func is _aten._local_scalar_dense.default and type(result) is int:
            self._reads |= of_data
        for at, value in enumerate(tree_leaves(result)):
            if isinstance(value, Tensor):
                self._mark(value, set(self._made(func, at, value, args, arguments)))
                if of_data and not any(value is argument for argument in arguments):
                    setattr(value, _OF_DATA, True)
        return result

    def _mark(self, value: Tensor, axes: set[int]) -> None:
        if axes or id(value) in self._axes:
            self._axes[id(value)] = frozenset(axes) | self.computed(value)
            self._alive.append(value)
            # Python code may read the size, too, and make another tensor with it.
            self._reads = True

    def _made(
        self, func: Any, at: int, value: Tensor, args: Sequence[Any], arguments: Sequence[Tensor]
    ) -> Iterator[int]:
        """Yields the axes of a result of an operator whose sizes are computed from data."""
        name = func.name().partition(".")[0]
        if value.dim() and name in _FIRST_AXIS:
            yield 0
        elif name in _UNIQUE:
            # The results are the values, the places in the input, and the counts.
            along = int(args[1]) % value.dim() if "dim" in name and at == 0 else 0
            if at != 1 and value.dim():
                yield along
        elif name == "aten::index" and _has_mask(args[1]):
            # The axes of the mask become one, at the place of the first; others may follow it.
            tail = args[0].dim() - sum(_rank(index) for index in args[1])
            plain = {int(size) for size in args[0].shape[args[0].dim() - tail :]}
            yield from (axis for axis, size in enumerate(value.shape) if size not in plain)
            if value.dim() == tail + 1:
                yield next(place for place, index in enumerate(args[1]) if index is not None)
        yield from self._inherited(func, name, value, arguments)

    def _inherited(
        self, func: Any, name: str, value: Tensor, arguments: Sequence[Tensor]
    ) -> Iterator[int]:
        if torch.Tag.pointwise in func.tags:
            yield from self._broadcast(value, arguments)
            return
        if name == "aten::cat":
            yield from {axis for argument in arguments for axis in self.computed(argument)}
            return
        own = [(argument, self.computed(argument)) for argument in arguments]
        made = {int(argument.shape[axis]) for argument, axes in own for axis in axes}
        known = {
            int(size)
            for argument, axes in own
            for axis, size in enumerate(argument.shape)
            if axis not in axes
        }
        # A number that was read may be behind a size that no tensor here has.
        read = self._reads and (name in _RESIZED or not arguments)
        for axis, size in enumerate(value.shape):
            new = size not in known | {1}
            if (made and (size in made or new)) or (read and new and size not in self._sizes):
                yield axis

    def _broadcast(self, value: Tensor, arguments: Sequence[Tensor]) -> Iterator[int]:
        """Yields the axes that no argument has in this size by itself."""
        for axis, size in enumerate(value.shape):
            from_end = axis - value.dim()
            aligned = [
                argument.dim() + from_end in self.computed(argument)
                for argument in arguments
                if argument.dim() + from_end >= 0 and argument.shape[from_end] == size
            ]
            if aligned and all(aligned):
                yield axis


def _has_mask(indices: Sequence[Any]) -> bool:
    masks = (torch.bool, torch.uint8)
    return any(isinstance(index, Tensor) and index.dtype in masks for index in indices)


def _rank(index: Any) -> int:
    """Returns the number of axes that an index replaces."""
    if not isinstance(index, Tensor):
        return 1
    return index.dim() if index.dtype in (torch.bool, torch.uint8) else 1
