"""Saves the state of a module, finds what calls changed in it, and restores it.

Streaming models write their own attributes in `forward`. The state holds the buffers, parameters
and plain attributes of each submodule, with the content of lists, dictionaries and objects, and the
submodules that it has, so that every eager run can start from the state as handed in, and the
module is left as it came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_OWN_TABLES = ("_buffers", "_parameters")
_OPAQUE = (str, bytes, int, float, complex, bool, type, FunctionType, MethodType, ModuleType)


class ModuleState:
    """The state of a module at one moment.

    Tensors are kept by reference beside a copy, so that both a rebound attribute and a tensor
    written in place are found and undone.
    """

    def __init__(self, module: nn.Module, *, copy_limit: int = 1 << 30) -> None:
        """Saves the state.

        Args:
            module: The module; it is not changed.
            copy_limit: Bytes of parameters above which they are not copied but only watched for
                writes. Sessions share parameters, so a call that writes one is refused anyway.
        """
        self._module = module
        self._nodes: dict[int, _Node] = {}
        parameters = list(module.parameters())
        size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        self._watched = set() if size <= copy_limit else {id(parameter) for parameter in parameters}
        self._modules = [
            (
                path,
                submodule,
                _names(submodule),
                {name: self._take(value) for name, value in _items(submodule)},
            )
            for path, submodule in module.named_modules()
        ]
        self._submodules = [
            (path, submodule, dict(vars(submodule)["_modules"]))
            for path, submodule in module.named_modules()
            if not _is_scripted(submodule)
        ]
        self._hooks = [
            (table, dict(table))
            for submodule in module.modules()
            for table in _hook_tables(submodule)
        ]

    def changed(self) -> tuple[str, ...]:
        """Returns the dotted names of the changed attributes, in the order of the modules."""
        names: list[str] = []
        # A module that registers hooks on its first call (transformers does, to collect hidden
        # states) remembers that in a flag, which is no state of the model.
        hooked = any(list(table) != list(before) for table, before in self._hooks)
        for path, module, _, nodes in self._modules:
            now = dict(_items(module))
            prefix = f"{path}." if path else ""
            for name, node in nodes.items():
                if name not in now or not node.same(now[name], set()):
                    names.append(prefix + name)
            names.extend(
                prefix + name
                for name, value in now.items()
                if name not in nodes and not (hooked and isinstance(value, bool))
            )
        for path, module, before in self._submodules:
            now_inside = vars(module)["_modules"]
            prefix = f"{path}." if path else ""
            names.extend(
                prefix + name
                for name in dict.fromkeys((*before, *now_inside))
                if before.get(name) is not now_inside.get(name)
            )
        return tuple(dict.fromkeys(names))

    def restore(self) -> None:
        """Restores every attribute: the same objects, with the same content."""
        done: set[int] = set()
        tables = [(vars(module)["_modules"], before) for _, module, before in self._submodules]
        for table, before in (*tables, *self._hooks):
            same = list(table) == list(before) and all(table[key] is before[key] for key in before)
            if not same:
                table.clear()
                table.update(before)
        with torch.no_grad():
            for _, module, present, nodes in self._modules:
                now = dict(_items(module))
                for name, node in nodes.items():
                    value = node.restore(done)
                    if name not in now or now[name] is not value:
                        _assign(module, name, value, present[name])
                for name in now:
                    if name not in nodes:
                        _remove(module, name)

    def _take(self, value: Any) -> _Node:
        """Returns the node of a value; a value with two names has one node."""
        known = self._nodes.get(id(value))
        if known is not None:
            return known
        node = self._nodes[id(value)] = _node_of(value)
        if isinstance(node, _TensorNode):
            node.take(copy=id(value) not in self._watched)
        else:
            node.take(self._take)
        return node


# --- one value ------------------------------------------------------------------------------------


class _Node:
    """A value whose parts do not change: compared by identity, then by equality."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def take(self, take: Callable[[Any], _Node]) -> None:
        """Saves the parts, each with a node from `take`."""

    def same(self, now: Any, seen: set[int]) -> bool:
        """Returns True when `now` has the saved content."""
        if now is self.value:
            return True
        if type(now) is not type(self.value):
            return False
        try:
            return bool(now == self.value)
        except Exception:  # raised by an __eq__ of the user
            return False

    def restore(self, done: set[int]) -> Any:
        """Restores the saved content of the saved object, and returns the object."""
        return self.value


class _TensorNode(_Node):
    """A tensor with its version and a copy of its content."""

    def take(self, take: Callable[[Any], _Node] | None = None, *, copy: bool = True) -> None:
        self._version = self._version_of(self.value)
        with torch.no_grad():
            self._copy = self.value.detach().clone() if copy else None

    @staticmethod
    def _version_of(tensor: Tensor) -> int:
        # Inference tensors have no version; after -1 every comparison reads the content.
        return -1 if tensor.is_inference() else tensor._version

    def same(self, now: Any, seen: set[int]) -> bool:
        if not isinstance(now, Tensor):
            return False
        unwritten = self._version_of(self.value) == self._version != -1
        if now is self.value and unwritten:
            return True
        if self._copy is None:
            return False
        return same_tensor(self._copy, now)

    def restore(self, done: set[int]) -> Any:
        if id(self) not in done and self._copy is not None and not self.same(self.value, set()):
            self.value.data = self._copy.clone()
            self._version = self._version_of(self.value)
        done.add(id(self))
        return self.value


class _ListNode(_Node):
    """A list, deque or tuple."""

    def take(self, take: Callable[[Any], _Node]) -> None:
        self._parts = [take(item) for item in self.value]

    def same(self, now: Any, seen: set[int]) -> bool:
        if type(now) is not type(self.value) or len(now) != len(self._parts):
            return False
        if id(self) in seen:
            return True
        seen.add(id(self))
        return all(part.same(item, seen) for part, item in zip(self._parts, now, strict=True))

    def restore(self, done: set[int]) -> Any:
        if id(self) in done:
            return self.value
        done.add(id(self))
        parts = [part.restore(done) for part in self._parts]
        if isinstance(self.value, (list, deque)):
            self.value.clear()
            self.value.extend(parts)
        return self.value


class _DictNode(_Node):
    """A dictionary, or the attributes of an object."""

    def _content(self, value: Any) -> dict[Any, Any]:
        return value if isinstance(value, dict) else vars(value)

    def take(self, take: Callable[[Any], _Node]) -> None:
        self._parts = {key: take(item) for key, item in self._content(self.value).items()}

    def same(self, now: Any, seen: set[int]) -> bool:
        if type(now) is not type(self.value):
            return False
        if id(self) in seen:
            return True
        seen.add(id(self))
        content = self._content(now)
        return list(content) == list(self._parts) and all(
            part.same(content[key], seen) for key, part in self._parts.items()
        )

    def restore(self, done: set[int]) -> Any:
        if id(self) in done:
            return self.value
        done.add(id(self))
        content = self._content(self.value)
        parts = {key: part.restore(done) for key, part in self._parts.items()}
        if list(content) != list(parts) or any(content[key] is not parts[key] for key in parts):
            content.clear()
            content.update(parts)
        return self.value


class _SetNode(_Node):
    """A set of values that do not change themselves."""

    def take(self, take: Callable[[Any], _Node]) -> None:
        self._copy = set(self.value)

    def same(self, now: Any, seen: set[int]) -> bool:
        return type(now) is type(self.value) and now == self._copy

    def restore(self, done: set[int]) -> Any:
        if self.value != self._copy:
            self.value.clear()
            self.value.update(self._copy)
        return self.value


def _node_of(value: Any) -> _Node:
    if isinstance(value, Tensor):
        return _TensorNode(value)
    if isinstance(value, (list, tuple, deque)):
        return _ListNode(value)
    if isinstance(value, dict):
        return _DictNode(value)
    if isinstance(value, set):
        return _SetNode(value)
    # Modules in containers or objects are no submodules, and are left alone; so is the content of
    # torch's own objects.
    opaque = value is None or isinstance(value, (*_OPAQUE, nn.Module, torch.Generator))
    of_torch = type(value).__module__.partition(".")[0] == "torch"
    if opaque or of_torch or not hasattr(value, "__dict__"):
        return _Node(value)
    return _DictNode(value)


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Returns True for equal dtypes, shapes, devices and elements, NaN being equal to NaN."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device or a.layout != b.layout:
        return False
    if a.layout != torch.strided or a.is_quantized:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


# --- one module -----------------------------------------------------------------------------------


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) and hasattr(module, "_c")


def _scripted_names(module: Any) -> list[str]:
    native: Any = torch._C
    attributes = native.ConcreteModuleType.from_jit_type(module._c._type()).get_attributes()
    tables = [
        name
        for table in (native.ParameterDict, native.BufferDict)
        for name, _ in table(module._c).items()
    ]
    own = [name for name in attributes if name not in ("training", "_is_full_backward_hook")]
    return list(dict.fromkeys([*own, *tables]))


_FRESH = frozenset(vars(nn.Module()))
"""The attributes that torch itself gives every module: `training`, the tables of hooks, ..."""


def _items(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the attributes of a module, without those of its submodules."""
    if _is_scripted(module):
        handle: Any = module._c
        for name in _scripted_names(module):
            yield name, handle.getattr(name)
        return
    for table in _OWN_TABLES:
        yield from vars(module)[table].items()
    for name, value in vars(module).items():
        if name not in _FRESH:
            yield name, value


def _hook_tables(module: nn.Module) -> Iterator[dict[Any, Any]]:
    if _is_scripted(module):
        return
    for name, value in vars(module).items():
        if name in _FRESH and "hook" in name and isinstance(value, dict):
            yield value


def _names(module: nn.Module) -> dict[str, str]:
    """Maps each attribute to its place: "script", "_buffers", "_parameters" or "plain"."""
    if _is_scripted(module):
        return dict.fromkeys(_scripted_names(module), "script")
    places = {name: "plain" for name in vars(module) if name not in _FRESH}
    for table in _OWN_TABLES:
        places.update(dict.fromkeys(vars(module)[table], table))
    return places


def _assign(module: nn.Module, name: str, value: Any, place: str) -> None:
    """Sets an attribute in its old place, which `__setattr__` would choose by type."""
    if place == "script":
        handle: Any = module._c
        handle.setattr(name, value)
        return
    _remove(module, name)
    table = vars(module) if place == "plain" else vars(module)[place]
    table[name] = value


def _remove(module: nn.Module, name: str) -> None:
    if _is_scripted(module):
        return  # a compiled class cannot gain attributes
    for table in (*(vars(module)[own_table] for own_table in _OWN_TABLES), vars(module)):
        table.pop(name, None)
