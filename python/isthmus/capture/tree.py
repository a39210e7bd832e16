"""Takes nested arguments and results apart into a `Tree` and its leaves, and builds them again.

It imports neither torch nor transformers: tensors and Hugging Face outputs are recognized by the
module and the name of their types, and `objects` knows the classes that are registered with pytree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isthmus.bundle.manifest import NodeKind, Tree
from isthmus.capture.objects import decoded, decoded_constant, make_object, parts_of, torch_constant
from isthmus.errors import InvalidInput

__all__ = ["Record", "build_tree", "flatten", "refuse_other_constants", "unflatten"]


class Record(dict[Any, Any]):
    """Replaces an object whose class is not imported or not registered in this process.

    Values are read by name (`out["x"]`), as attributes (`out.x`) or by position (`out[0]`).
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            names = ", ".join(map(str, self))
            raise AttributeError(f"no {name!r} here; there is {names}") from None

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return list(self.values())[key]
        return super().__getitem__(key)


def build_tree(value: Any, prefix: str) -> tuple[Tree, dict[str, Any]]:
    """Returns the nesting of a value, and its leaves by name.

    Args:
        value: Nested lists, tuples, dicts, named tuples, dataclasses, Hugging Face ModelOutputs,
            and objects of classes that are registered with pytree. None, text, dtypes and devices
            become part of the tree; all other values are leaves.
        prefix: The name of the value; leaves below it are named "prefix.key.0". May be empty.

    Raises:
        InvalidInput: The key of a dictionary is neither text nor an integer, or an object cannot be
            described; see `parts_of`.
    """
    leaves: dict[str, Any] = {}
    return _build(value, prefix, leaves), leaves


def _build(value: Any, name: str, leaves: dict[str, Any]) -> Tree:
    if value is None:
        return Tree("none")
    if isinstance(value, str):
        return Tree("const", value=value)
    special = torch_constant(value)
    if special is not None:
        return Tree("const", value=special)
    kind = _kind_of(value)
    parts = None
    if kind in (None, "dataclass"):
        # A dataclass whose registration a manifest cannot hold has its fields.
        with contextlib.suppress(*([InvalidInput] if kind == "dataclass" else [])):
            parts = parts_of(value, name)
    if parts is not None and not (kind == "dataclass" and _same_items(parts.items, value)):
        kind = "pytree"
    if kind is None:
        name = name or "value"
        leaves[name] = value
        return Tree("leaf", name=name)
    items: list[Tree] = []
    keys: list[str | int] = []
    children = _children(kind, value) if kind != "pytree" or parts is None else parts.items.items()
    for key, item in children:
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise InvalidInput(
                f'"{name}" is a dictionary with the key {key!r}, a {type(key).__name__}; '
                "expected keys that are text or integers"
            )
        keys.append(key)
        items.append(_build(item, f"{name}.{key}" if name else str(key), leaves))
    cls = type(value)
    named = kind in ("namedtuple", "dataclass", "model_output", "pytree")
    return Tree(
        kind,
        value=parts.context if kind == "pytree" and parts is not None else None,
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


def _same_items(items: Mapping[str | int, Any], value: Any) -> bool:
    """Returns True where pytree takes a dataclass apart into its fields, as is done without it."""
    fields = [item for _, item in _children("dataclass", value) if item is not None]
    parts = [item for item in items.values() if item is not None]
    return len(fields) == len(parts) and all(map(operator.is_, fields, parts))


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
    value = _opened(tree, value, path)
    for at, item in enumerate(tree.items):
        key: str | int = tree.keys[at] if tree.keys else at
        _flatten(
            item, _child(tree, value, at, key, path), leaves, f"{path}.{key}" if path else str(key)
        )


def _opened(tree: Tree, value: Any, path: str) -> Any:
    """Returns the parts by key of an object whose class pytree knows; other values as they are."""
    parts = parts_of(value, path) if tree.node == "pytree" else None
    if parts is None:
        return value
    if parts.type != tree.type:
        where = f'"{path}"' if path else "the value"
        raise InvalidInput(f"{where}: expected {_article(tree.type)}, got {_article(parts.type)}")
    return parts.items


def _article(type_name: str) -> str:
    """Returns "a DynamicCache" for "transformers.cache_utils:DynamicCache"."""
    name = type_name.rpartition(":")[2].rpartition(".")[2]
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


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
    expected = _article(tree.type) if tree.node == "pytree" else f"a {tree.node}"
    raise InvalidInput(f"{where}: expected {expected}, got a {type(value).__name__}")


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
    if tree.node == "pytree":
        parts = parts_of(value, name)
        if parts is not None and parts.type == tree.type and parts.context != tree.value:
            raise InvalidInput(
                f'"{name}" is {_article(tree.type)} made with {decoded(parts.context)!r}, and was '
                f"exported as one made with {decoded(tree.value)!r}, which became a part of the "
                "model: give one like it, or export the model again with the other"
            )
        value = _opened(tree, value, name)
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
    value = torch_constant(value) or value
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
    it, objects of other classes where it has registered the class with pytree, else a replacement
    (`Record`, a named tuple). A manifest cannot have anything imported: a class is used only if it
    is of the kind and has the fields that the tree says.

    Raises:
        InvalidInput: A registered class does not take the parts.
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
    if tree.node == "pytree":
        made, parts = None, dict(zip(tree.keys, items, strict=True))
        if all(_is_of_torch(values.get(name)) for name in tree.leaves()):
            made = make_object(tree.type, tree.value, parts)
        return made if made is not None else Record(parts)
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


def _is_of_torch(value: Any) -> bool:
    """Returns True for what an object is made of, and no array of another library."""
    torch: Any = sys.modules.get("torch")
    plain = value is None or isinstance(value, (bool, int, float))
    return plain or (torch is not None and isinstance(value, torch.Tensor))


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
        (kind,) = value
        if kind in ("torch.dtype", "torch.device"):
            return decoded_constant(value)
    return value
