"""Takes nested arguments and results apart into a `Tree` and its leaves, and builds them again.

It imports neither torch nor transformers: tensors and Hugging Face outputs are recognized by the
module and the name of their types.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isthmus.bundle.manifest import NodeKind, Tree
from isthmus.errors import InvalidInput

__all__ = ["Record", "build_tree", "flatten", "refuse_other_constants", "unflatten"]


class Record(dict[str, Any]):
    """Replaces a dataclass or ModelOutput whose class is not imported in this process.

    Values are read by name (`out["x"]`), as attributes (`out.x`) or by position (`out[0]`).
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {', '.join(self)}") from None

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return list(self.values())[key]
        return super().__getitem__(key)


def build_tree(value: Any, prefix: str) -> tuple[Tree, dict[str, Any]]:
    """Returns the nesting of a value, and its leaves by name.

    Args:
        value: Nested lists, tuples, dicts, named tuples, dataclasses and Hugging Face ModelOutputs.
            None, text, dtypes and devices become part of the tree; all other values are leaves.
        prefix: The name of the value; leaves below it are named "prefix.key.0". May be empty.

    Raises:
        InvalidInput: The key of a dictionary is neither text nor an integer.
    """
    leaves: dict[str, Any] = {}
    return _build(value, prefix, leaves), leaves


def _build(value: Any, name: str, leaves: dict[str, Any]) -> Tree:
    if value is None:
        return Tree("none")
    if isinstance(value, str):
        return Tree("const", value=value)
    special = _torch_constant(value)
    if special is not None:
        return Tree("const", value=special)
    kind = _kind_of(value)
    if kind is None:
        name = name or "value"
        leaves[name] = value
        return Tree("leaf", name=name)
    items: list[Tree] = []
    keys: list[str | int] = []
    for key, item in _children(kind, value):
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise InvalidInput(
                f'"{name}" is a dictionary with the key {key!r}, a {type(key).__name__}; '
                "expected keys that are text or integers"
            )
        keys.append(key)
        items.append(_build(item, f"{name}.{key}" if name else str(key), leaves))
    cls = type(value)
    named = kind in ("namedtuple", "dataclass", "model_output")
    return Tree(
        kind,
        type=f"{cls.__module__}:{cls.__qualname__}" if named else "",
        keys=tuple(keys) if kind not in ("list", "tuple") else (),
        items=tuple(items),
    )


def _kind_of(value: Any) -> NodeKind | None:
    if isinstance(value, Mapping):
        is_model_output = any(base.__name__ == "ModelOutput" for base in type(value).__mro__)
        return "model_output" if is_model_output else "dict"
    if isinstance(value, tuple):
        return "namedtuple" if hasattr(value, "_fields") else "tuple"
    if isinstance(value, list):
        return "list"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "dataclass"
    return None


def _children(kind: NodeKind, value: Any) -> Iterator[tuple[Any, Any]]:
    if kind in ("dict", "model_output"):
        yield from value.items()
    elif kind == "namedtuple":
        yield from zip(value._fields, value, strict=True)
    elif kind == "dataclass":
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
    else:
        yield from enumerate(value)


def _torch_constant(value: Any) -> dict[str, str] | None:
    cls = type(value)
    if cls.__module__ == "torch" and cls.__name__ in ("dtype", "device"):
        return {f"torch.{cls.__name__}": str(value).removeprefix("torch.")}
    return None


def flatten(tree: Tree, value: Any) -> dict[str, Any]:
    """Returns the leaves of a value by name, in the tree's order; None for an absent optional part.

    Raises:
        InvalidInput: The value does not have the tree's structure.
    """
    leaves: dict[str, Any] = {}
    _flatten(tree, value, leaves, "")
    return leaves


def _flatten(tree: Tree, value: Any, leaves: dict[str, Any], path: str) -> None:
    if tree.node == "leaf":
        leaves[tree.name] = value
        return
    if tree.node in ("none", "const"):
        return
    if value is None:
        for name in tree.leaves():
            leaves[name] = None
        return
    for at, item in enumerate(tree.items):
        key: str | int = tree.keys[at] if tree.keys else at
        _flatten(
            item, _child(tree, value, at, key, path), leaves, f"{path}.{key}" if path else str(key)
        )


def _child(tree: Tree, value: Any, at: int, key: str | int, path: str) -> Any:
    where = f'"{path}"' if path else "the value"
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        if tree.node == "model_output":
            return None
        raise InvalidInput(
            f"{where}: expected the key {key!r}, got {', '.join(map(repr, value)) or 'none'}"
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == len(tree.items):
            return value[at]
        raise InvalidInput(f"{where}: expected {len(tree.items)} values, got {len(value)}")
    if isinstance(key, str) and hasattr(value, key):
        return getattr(value, key)
    raise InvalidInput(f"{where}: expected a {tree.node}, got a {type(value).__name__}")


def refuse_other_constants(tree: Tree, value: Any, name: str) -> None:
    """Refuses an argument in which something differs that the export made a part of the model.

    Args:
        tree: The nesting of the argument.
        value: The argument of a call.
        name: The argument's name, for messages.

    Raises:
        InvalidInput: A constant has another value, or a part is given that was None or missing.
    """
    if tree.node == "leaf":
        return
    if tree.node in ("none", "const"):
        constant = None if tree.node == "none" else tree.value
        if not _same_constant(constant, value):
            raise InvalidInput(
                f'"{name}" became a part of the model when it was exported, as {constant!r}, and '
                f"cannot be {_shown(value)} in a call: give the same value or leave it out, or "
                "export the model again with the other value"
            )
        return
    if value is None and tree.leaves():
        return  # an absent optional part
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in tree.keys and value[key] is not None]
        if unknown:
            known = ", ".join(map(repr, tree.keys)) or "none"
            raise InvalidInput(
                f'"{name}" has the key {unknown[0]!r}, which the exported call did not have; '
                f"expected {known}"
            )
    for at, item in enumerate(tree.items):
        key: str | int = tree.keys[at] if tree.keys else at
        refuse_other_constants(item, _child(tree, value, at, key, name), f"{name}.{key}")


def _same_constant(constant: Any, value: Any) -> bool:
    if getattr(value, "ndim", None) == 0:  # a number of NumPy
        value = value.item()
    value = _torch_constant(value) or value
    numbers = [type(number) in (int, float) for number in (constant, value)]
    if type(constant) is not type(value) and not all(numbers):
        return False
    both_nan = all(numbers) and constant != constant and value != value
    return both_nan or bool(constant == value)


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, (str, int, float))
    return repr(value) if plain else f"a {type(value).__name__}"


def unflatten(tree: Tree, values: Mapping[str, Any]) -> Any:
    """Returns the value that the tree describes; leaves that `values` does not have are None.

    Named tuples, dataclasses and ModelOutputs get their own class where this process has imported
    it, else a replacement (`Record`, a named tuple). A manifest cannot have anything imported or
    called: a class is used only if it is of the kind and has the fields that the tree says.
    """
    if tree.node == "leaf":
        return values.get(tree.name)
    if tree.node == "none":
        return None
    if tree.node == "const":
        return _constant(tree.value)
    items = [unflatten(item, values) for item in tree.items]
    if tree.node == "list":
        return items
    if tree.node == "tuple":
        return tuple(items)
    if tree.node == "dict":
        return dict(zip(tree.keys, items, strict=True))
    names = [str(key) for key in tree.keys]
    cls = _imported(tree.type)
    if tree.node == "namedtuple":
        if isinstance(cls, type) and issubclass(cls, tuple) and list(_fields(cls)) == names:
            return cls(*items)
        return namedtuple(tree.type.rpartition(".")[2].rpartition(":")[2], names, rename=True)(
            *items
        )
    fields = dict(zip(names, items, strict=True))
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        declared = {field.name for field in dataclasses.fields(cls)}
        is_model_output = any(base.__name__ == "ModelOutput" for base in cls.__mro__)
        if declared.issuperset(names) and is_model_output == (tree.node == "model_output"):
            return _make_dataclass(cls, fields)
    return Record(fields)


def _fields(cls: type) -> tuple[str, ...]:
    return tuple(getattr(cls, "_fields", ()))


def _make_dataclass(cls: type, values: Mapping[str, Any]) -> Any:
    initial = {field.name for field in dataclasses.fields(cls) if field.init}
    result = cls(**{name: value for name, value in values.items() if name in initial})
    for name, value in values.items():
        if name not in initial:
            object.__setattr__(result, name, value)
    return result


def _imported(name: str) -> Any:
    """Returns the class that a manifest names if its module is imported already, else None."""
    module, _, path = name.partition(":")
    cls: Any = sys.modules.get(module)
    for part in path.split("."):
        cls = getattr(cls, part, None)
    return cls


def _constant(value: Any) -> Any:
    if isinstance(value, Mapping) and len(value) == 1:
        (kind, text), *_ = value.items()
        if kind in ("torch.dtype", "torch.device"):
            import torch

            if kind == "torch.device":
                return torch.device(text)
            dtype = getattr(torch, str(text), None)
            return dtype if isinstance(dtype, torch.dtype) else None
    return value
