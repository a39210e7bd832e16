"""Takes objects apart whose class torch's pytree knows, and builds them again.

A manifest names a class, and may come from anywhere. So a class is looked for among those that this
process has registered with `torch.utils._pytree` (and the caches of `caches`), nothing is imported,
and what an object is made from beside its parts is plain data.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.capture.caches import cache_parts, is_cache, is_known_cache, make_cache
from isthmus.errors import InvalidInput

__all__ = ["Parts", "decoded", "decoded_constant", "make_object", "parts_of", "torch_constant"]


@dataclass(frozen=True)
class Parts:
    """An object taken apart."""

    type: str
    """The class: "module:QualName"."""
    context: Any
    """The JSON value of what the class keeps beside the parts."""
    items: dict[str | int, Any]
    """The parts by key."""


def parts_of(value: Any, name: str = "") -> Parts | None:
    """Returns the parts of an object, or None if its class is not registered.

    Args:
        value: Any value. Lists, tuples and mappings, which are registered too, have no parts here.
        name: The name of the value, for messages.

    Raises:
        InvalidInput: The class keeps something beside the parts that a manifest cannot hold, or it
            is a cache that its tensors do not describe.
    """
    cls = type(value)
    type_name = f"{cls.__module__}:{cls.__qualname__}"
    node = None if is_known_cache(type_name) else _registered().get(cls)
    if node is None and is_cache(value):
        items, constant = cache_parts(value, name or "the cache")
        return Parts(type_name, constant, dict(items))
    if node is None or not _is_object(cls):
        return None
    if node.flatten_with_keys_fn is not None:
        children, context = node.flatten_with_keys_fn(value)
        keyed = [(_key(entry, at), child) for at, (entry, child) in enumerate(children)]
    else:
        children, context = node.flatten_fn(value)
        keyed = list(enumerate(children))
    if len(dict(keyed)) != len(keyed):
        keyed = [(at, child) for at, (_, child) in enumerate(keyed)]
    try:
        return Parts(type_name, _encoded(context), dict(keyed))
    except TypeError as error:
        raise InvalidInput(
            f'"{name}" is a {cls.__module__}.{cls.__qualname__}, whose registration with pytree '
            f"keeps {error} beside the parts; expected None, numbers, text, dtypes, devices, and "
            "lists, tuples and dictionaries of these, which a manifest can hold: register the "
            "class with such a context, or take its tensors as they are"
        ) from error


def make_object(type_name: str, context: Any, items: Mapping[str | int, Any]) -> Any:
    """Returns an object of the class of this name, or None if the process has not registered it.

    Args:
        type_name: "module:QualName", as `parts_of` gives it.
        context: The JSON value of what the class keeps beside the parts.
        items: The parts by key.

    Raises:
        InvalidInput: The class does not take these parts and this context.
    """
    if is_known_cache(type_name):
        return make_cache(type_name, items, context)
    for cls, node in list(_registered().items()):
        if not _is_object(cls) or f"{cls.__module__}:{cls.__qualname__}" != type_name:
            continue
        try:
            return node.unflatten_fn(list(items.values()), decoded(context))
        except Exception as error:
            raise InvalidInput(
                f"a {type_name} cannot be made from {', '.join(map(str, items)) or 'no parts'} and "
                f"the context {decoded(context)!r} of the manifest ({type(error).__name__}: "
                f"{error}); the class here is another than at export: export again, or do not "
                "register it to get the parts by name"
            ) from error
    return None


def _registered() -> Mapping[Any, Any]:
    """Returns what pytree knows of each class."""
    pytree: Any = sys.modules.get("torch.utils._pytree")
    return pytree.SUPPORTED_NODES if pytree is not None else {}


def _is_object(cls: Any) -> bool:
    """Returns True for a class that is no container and none of torch's internal ones."""
    containers = (list, tuple, Mapping)
    known = isinstance(cls, type) and not cls.__module__.startswith("torch._")
    return known and not issubclass(cls, containers)


def _key(entry: Any, at: int) -> str | int:
    """Returns the key in an entry of pytree's key paths, or the position."""
    for attribute in ("key", "idx", "name"):
        key = getattr(entry, attribute, None)
        if isinstance(key, (str, int)) and not isinstance(key, bool):
            return key
    return at


# --- contexts as JSON -----------------------------------------------------------------------------


def torch_constant(value: Any) -> dict[str, str] | None:
    """Returns the JSON value of a dtype or a device; None for anything else."""
    cls = type(value)
    if cls.__module__ == "torch" and cls.__name__ in ("dtype", "device"):
        return {f"torch.{cls.__name__}": str(value).removeprefix("torch.")}
    return None


def _encoded(value: Any) -> Any:
    """Returns the JSON value of plain data.

    Raises:
        TypeError: Something in it is no plain data; its text names the type.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_encoded(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [_encoded(item) for item in value]}
    if type(value) is dict:
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    constant = torch_constant(value)
    if constant is None:
        raise TypeError(f"a {type(value).__name__}")
    return constant


def decoded(value: Any) -> Any:
    """Returns the plain data of a JSON value in which a context is kept."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [decoded(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    (kind, content), *_ = value.items()
    if kind == "tuple":
        return tuple(map(decoded, content))
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in content}
    return decoded_constant(value)


def decoded_constant(value: Mapping[str, Any]) -> Any:
    """Returns the dtype or device of a JSON value that `torch_constant` gave; None for others."""
    import torch

    (kind, text), *_ = value.items()
    if kind == "torch.device":
        return torch.device(text)
    dtype = getattr(torch, str(text), None)
    return dtype if isinstance(dtype, torch.dtype) else None
